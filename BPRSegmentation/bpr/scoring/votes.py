"""Heights of landmarks from the slices' votes: each slice says whether it lies above, and the best change point wins.

Organs do not follow the ruler of bones (30 to 50 mm up or down from person to person), so each has outputs of its own.
"""

from __future__ import annotations

import numpy as np

HEAD_TILT = ("mandible_bottom", "orbit_center")  # bones that leave the ruler when the chin goes up or down
BEYOND_MM = 400.0  # how far outside the scan a landmark may be placed
WIDE_MM = 60.0  # standard deviation of a prior that leaves the votes alone to speak


def change_point(
    z_mm: np.ndarray, logits: np.ndarray, prior_mm: float, prior_sd_mm: float, correlation_mm: float
) -> tuple[float, float]:
    """Posterior mean and standard deviation (mm) of the height where the votes turn from "below" to "above".

    For a landmark at c the votes' log likelihood is the sum of log(1 - p) over slices below c and of log p over slices
    above it. Neighbors err together, so the sum counts one slice per ``correlation_mm``. The prior is a Gaussian.

    Args:
        z_mm: (n,) heights of the slices, growing and evenly spaced.
        logits: (n,) of "this slice lies above the landmark".
    """
    step = float(z_mm[1] - z_mm[0]) if len(z_mm) > 1 else correlation_mm
    margin = int(np.ceil(BEYOND_MM / step))
    # Candidate k lies between slices k - 1 and k of the scan; outside of it the votes say the same everywhere.
    below = np.r_[0.0, np.cumsum(-np.logaddexp(0, logits))]
    above = np.r_[np.cumsum(-np.logaddexp(0, -logits)[::-1])[::-1], 0.0]
    told = np.pad((below + above) * min(1.0, step / correlation_mm), margin, mode="edge")
    candidates = z_mm[0] - step / 2 + step * np.arange(-margin, len(z_mm) + 1 + margin)
    total = told - 0.5 * ((candidates - prior_mm) / prior_sd_mm) ** 2
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    mean = float(weight @ candidates)
    return mean, float(np.sqrt(weight @ (candidates - mean) ** 2 + step**2 / 12))


def organ_heights(
    z_mm: np.ndarray, logits: np.ndarray, prior_mm: np.ndarray, prior_cov: np.ndarray, correlation_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and standard deviations (mm) of several organs at once: what is known of one informs the others.

    A person's diaphragm, liver, spleen and kidneys sit high or low together. Each organ's prior is conditioned on what
    the votes alone say of the others; then its own votes decide.

    Args:
        logits: (n, k) votes. prior_mm (k,), prior_cov (k, k): where the ruler puts the organs, and how they stray.
    """
    count = len(prior_mm)
    alone = [change_point(z_mm, logits[:, k], prior_mm[k], WIDE_MM, correlation_mm) for k in range(count)]
    # Take the wide prior out again: what is left is the votes' own mean and variance.
    mean, variance = np.array([m for m, _ in alone]), np.array([sd**2 for _, sd in alone])
    own_variance = 1 / np.maximum(1 / variance - 1 / WIDE_MM**2, 1e-6)
    own_mean = (mean / variance - prior_mm / WIDE_MM**2) * own_variance
    heights, doubts = np.empty(count), np.empty(count)
    for k in range(count):
        rest = np.arange(count) != k
        gain = prior_cov[k, rest] @ np.linalg.inv(prior_cov[np.ix_(rest, rest)] + np.diag(own_variance[rest]))
        expected = prior_mm[k] + gain @ (own_mean[rest] - prior_mm[rest])
        sd = np.sqrt(max(prior_cov[k, k] - gain @ prior_cov[rest, k], 25.0))
        heights[k], doubts[k] = change_point(z_mm, logits[:, k], expected, sd, correlation_mm)
    return heights, doubts
