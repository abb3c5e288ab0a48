"""What a run found, in words for the panel. Strings pass through ``translate``, Slicer's tr() in the module."""

from __future__ import annotations

from collections.abc import Callable

Translate = Callable[[str], str]
DOUBTFUL = 0.3  # mean probability that a segment's voxels give to something else


def found_text(summary: dict, warnings: list[str], translate: Translate = str) -> str:
    """A few lines: coverage, regions, organs, warnings, and which device and engine were used."""
    lines = []
    first, last = summary.get("coverage") or (None, None)
    if first and last:
        text = translate("The scan reaches from {first} to {last}.")
        lines.append(text.format(first=_plain(first), last=_plain(last)))
    regions = [f"{region['name']} ({100 * region['complete']:.0f} %)" for region in summary.get("regions", [])]
    if regions:
        lines.append(translate("Regions: {names}.").format(names=", ".join(regions)))
    segments = summary.get("segments", [])
    if segments:
        lines.append(translate("{count} structures were segmented.").format(count=len(segments)))
    doubtful = [segment["name"] for segment in segments if segment.get("doubt", 0) > DOUBTFUL]
    if doubtful:
        lines.append(translate("Look at these first: {names}.").format(names=", ".join(doubtful)))
    lines += warnings
    if summary.get("engine"):
        text = translate("Computed by {engine} on {device}.")
        lines.append(text.format(engine=summary["engine"], device=summary.get("device", "?")))
    return "\n".join(lines)


def remaining_text(seconds: float | None, translate: Translate = str) -> str:
    """The estimate as words, or nothing when there is none."""
    if seconds is None:
        return ""
    if seconds < 60:
        return translate("about {seconds} s left").format(seconds=max(1, round(seconds)))
    return translate("about {minutes} min left").format(minutes=round(seconds / 60))


def _plain(identifier: str) -> str:
    return identifier.replace("_", " ")
