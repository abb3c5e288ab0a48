"""What of a case is right, as an annotator marks it: slices and organs. Everything else is unknown, not background."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bpr.errors import InputError

RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class Mark:
    """ "In these slices these organs are right." Empty ``slices`` means all slices, empty ``organs`` all segments.

    Attributes:
        slices: (first, last) index ranges along the volume's slice axis, both ends included.
        organs: structure IDs. An organ that is named here and has no segment is known to be absent in these slices.
    """

    slices: tuple[tuple[int, int], ...] = ()
    organs: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: dict) -> Mark:
        """The mark that ``to_json`` wrote. Raises KeyError, TypeError or ValueError when it is another thing."""
        ranges = tuple((int(first), int(last)) for first, last in content["slices"])
        if any(first < 0 or last < first for first, last in ranges):
            raise ValueError("slices")
        return cls(ranges, tuple(str(organ) for organ in content["organs"]))

    def to_json(self) -> dict:
        """Plain lists for case.json."""
        return {"slices": [list(pair) for pair in self.slices], "organs": list(self.organs)}

    def covers(self, count: int) -> np.ndarray:
        """(count,) bool: which of a volume's slices are marked."""
        if not self.slices:
            return np.ones(count, bool)
        marked = np.zeros(count, bool)
        for first, last in self.slices:
            marked[first : last + 1] = True
        return marked


def parse_slices(text: str) -> tuple[tuple[int, int], ...]:
    """ "10-20,35" as ((10, 20), (35, 35)); "all" or "" as (). Raises InputError for anything else."""
    if text.strip().lower() in ("", "all"):
        return ()
    ranges = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InputError(
                f"{part.strip()!r} is no slice or range of slices.", "Write slices as in 10-20,35, or all."
            )
        ranges.append((first, last))
    return tuple(ranges)


def slices_text(marks: tuple[Mark, ...]) -> str:
    """What a table shows of the marks, such as "10-20, 35; liver: all"."""
    words = []
    for mark in marks:
        ranges = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in mark.slices) or "all"
        words.append(f"{', '.join(mark.organs)}: {ranges}" if mark.organs else ranges)
    return "; ".join(words)


def organs_by_slice(marks: tuple[Mark, ...], count: int, drawn: tuple[str, ...]) -> dict[frozenset[str], np.ndarray]:
    """Group a volume's slices by the set of organs that is known in them.

    Args:
        drawn: IDs of the structures that have a segment: what a mark without organs speaks of.

    Returns:
        Set of structure IDs to (count,) bool; slices in which nothing is marked are in no group.
    """
    known: list[set[str]] = [set() for _ in range(count)]
    for mark in marks:
        for index in np.flatnonzero(mark.covers(count)):
            known[index].update(mark.organs or drawn)
    groups: dict[frozenset[str], np.ndarray] = {}
    for index, organs in enumerate(known):
        if organs:
            groups.setdefault(frozenset(organs), np.zeros(count, bool))[index] = True
    return groups
