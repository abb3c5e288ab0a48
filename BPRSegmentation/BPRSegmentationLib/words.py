"""What a run found or met, in words for the panel."""

from __future__ import annotations

from enum import Enum

from .progress import Progress
from .translation import _

DOUBTFUL = 0.3  # mean probability that a segment's voxels give to something else


def found_text(summary: dict, warnings: list[str], produce: tuple[str, ...] = ()) -> str:
    """A few lines: coverage, regions, organs, remarks, and which device and engine were used."""
    lines = []
    first, last = summary.get("coverage") or (None, None)
    if first and last:
        lines.append(_("The scan reaches from {first} to {last}.").format(first=plain(first), last=plain(last)))
    regions = [f"{region['name']} ({100 * region['complete']:.0f} %)" for region in summary.get("regions", [])]
    if regions:
        lines.append(_("Regions: {names}.").format(names=", ".join(regions)))
    elif "regions" in produce and "domain" not in summary.get("bundles", {}):  # such a model says itself what it gives
        lines.append(_("No region: the scan holds none to a useful share, or its scores cannot be trusted."))
    segments = summary.get("segments", [])
    if segments:
        lines.append(_("{count} structures were segmented.").format(count=len(segments)))
    elif "segmentation" in produce:
        lines.append(_("The segmentation is empty: none of the chosen organs was found in the regions of this scan."))
    doubtful = sorted((s for s in segments if s.get("doubt", 0) > DOUBTFUL), key=lambda segment: -segment["doubt"])
    if doubtful:
        names = ", ".join(segment.get("name", segment["id"]) for segment in doubtful)
        lines.append(_("Look at these first: {names}.").format(names=names))
    lines += warnings
    if summary.get("engine"):
        text = _("Computed by {engine} on {device}.")
        lines.append(text.format(engine=summary["engine"], device=summary.get("device", "?")))
    return "\n".join(lines)


def time_text(elapsed_s: float, remaining_s: float | None) -> str:
    """How long a run has taken and will take, in words."""
    elapsed = _("{time} elapsed").format(time=_duration(elapsed_s))
    if remaining_s is None:
        return elapsed
    return _("{elapsed}, about {time} left").format(elapsed=elapsed, time=_duration(max(1, remaining_s)))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return _("{seconds} s").format(seconds=round(seconds))
    if seconds < 600:
        return _("{minutes} min {seconds} s").format(minutes=int(seconds // 60), seconds=int(seconds % 60))
    return _("{minutes} min").format(minutes=round(seconds / 60))


def plain(identifier: str) -> str:
    """A landmark or region as people write it: ``t12_l1`` is "T12/L1"."""
    from bpr.results.views import landmark_words

    return landmark_words(identifier)


class Remedy(Enum):
    """What the panel can do about a failed run at one click."""

    SMALLER_TILES = "smaller tiles"
    CPU = "cpu"
    PACKAGES = "packages"


def remedies(progress: Progress, device: str, tile: int) -> list[Remedy]:
    """What may help after this failure; ``device`` and ``tile`` are what the run was asked to use."""
    found = []
    estimated = "needs about" in progress.error  # the whole scan is too large then, whatever the tiles
    if progress.error_type == "MemoryShortage" and not estimated:
        if tile != 32:
            found.append(Remedy.SMALLER_TILES)
        if device != "cpu":
            found.append(Remedy.CPU)
    if device not in ("auto", "cpu") and f"device {device}" in progress.error:
        found.append(Remedy.CPU)
    told = f"{progress.error} {' '.join(progress.log[-40:])}"
    if any(words in told for words in ("must be installed", "is not installed", "ModuleNotFoundError", "ImportError")):
        found.append(Remedy.PACKAGES)
    return found
