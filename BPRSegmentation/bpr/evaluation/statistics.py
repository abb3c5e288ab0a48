"""Means with bootstrap intervals over patients: slices and organs of one person are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval over patients; ``n`` counts the values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3g} ({self.low:.3g} to {self.high:.3g}, n {self.n})"


def bootstrap_mean(values: list[float], patients: list[str], repeats: int = 2000, seed: int = 0) -> Estimate:
    """Mean of ``values`` with a percentile interval from resampling whole patients."""
    values = np.asarray(values, float)
    if len(values) == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    groups = [values[np.array(patients) == name] for name in sorted(set(patients))]
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = np.random.default_rng(seed).integers(0, len(groups), (repeats, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return Estimate(float(values.mean()), *map(float, np.percentile(means, (2.5, 97.5))), len(values))
