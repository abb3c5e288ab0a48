"""Global masks: where organs lie in the people that have been labeled, put into a new scan by its place on the ruler.

Masks of training people are gathered in one frame: ruler mm along the body, mm from the body's middle across it. The
share of people who have an organ at a place is a probabilistic atlas; its likeliest voxels are a binary mask. Put onto
the grid of a scan they tell a network where to look, alone or beside the image (after Kazemimoghadam et al.,
Physics in Medicine & Biology 2023, who let the outline of the whole brain or heart tell where its parts lie).

A person who teaches must not find the own mask in the template: ``Atlas.without`` takes it out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

BODY_HU = -300  # what is denser is body
SMOOTH_MM = 12.0  # of the body's middle along the body
ACROSS = ("zwy,nzyx->nzwx", "zwx,nzyx->nzyw")  # interpolation of rows and of columns, slice by slice


@dataclass(frozen=True)
class Placement:
    """Where a grid along the patient's axes lies on the body.

    Attributes:
        ruler_mm: (z,) ruler position of each slice, growing: from the score curve, or from landmarks.
        middle: (z, 2) row and column of the body's middle in each slice, see ``body_middles``.
        step_mm: edge of a voxel in plane.
        shape: (z, y, x) of the grid.
    """

    ruler_mm: np.ndarray
    middle: np.ndarray
    step_mm: float
    shape: tuple[int, int, int]

    def across(self, axis: int) -> np.ndarray:
        """(z, n) mm from the middle of rows (axis 0: behind it) or columns (axis 1: to the patient's left of it)."""
        return (np.arange(self.shape[1 + axis]) - self.middle[:, axis, None]) * self.step_mm


def body_middles(hu: np.ndarray, step_mm: float) -> np.ndarray:
    """(z, 2) row and column of the body's middle in each slice of hu (z, y, x), smoothed along the body.

    Slices have middles of their own because necks lean: it takes a third off what a larynx strays from front to back.
    """
    body = (hu > BODY_HU).astype(np.float64)
    smooth = SMOOTH_MM / step_mm
    size = ndimage.gaussian_filter1d(body.sum((1, 2)), smooth, mode="nearest")
    rows, columns = (np.arange(n) for n in hu.shape[1:])
    sums = np.stack([body.sum(2) @ rows, body.sum(1) @ columns], 1)
    sums = ndimage.gaussian_filter1d(sums, smooth, axis=0, mode="nearest")
    center = (np.array(hu.shape[1:]) - 1) / 2
    return np.where(size[:, None] > 0.5, sums / np.maximum(size, 0.5)[:, None], center)


@dataclass(frozen=True)
class LabeledPerson:
    """Masks of one person: ``masks`` (organs, z, y, x) bool, ``known`` (organs, z) bool: where they were drawn."""

    id: str
    masks: np.ndarray
    known: np.ndarray
    place: Placement


@dataclass(frozen=True)
class Atlas:
    """Sums over people in a frame of their own.

    Attributes:
        frame: the grid of the sums; its middle is the same in all slices.
        hits: (organs, z, y, x) float32, number of people who have the organ there.
        people: (organs, z) float32, number of people in whom the organ was drawn at that height.
        own: person to what they added, (hits, people) in half precision.
    """

    frame: Placement
    hits: np.ndarray
    people: np.ndarray
    own: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, persons: list[LabeledPerson], frame: Placement) -> Atlas:
        """Gather people's masks. Raises ValueError without any."""
        if not persons:
            raise ValueError("an atlas needs at least one person")
        own = {person.id: _in_frame(person, frame) for person in persons}
        hits, people = (sum(pair[k].astype(np.float32) for pair in own.values()) for k in (0, 1))
        return cls(frame, hits, people, own)

    def without(self, person: str) -> Atlas:
        """The atlas of all the others (leave one out)."""
        hits, people = (part.astype(np.float32) for part in self.own[person])
        rest = {name: pair for name, pair in self.own.items() if name != person}
        return replace(self, hits=self.hits - hits, people=self.people - people, own=rest)

    def placed(self, place: Placement) -> np.ndarray:
        """Share of people, (organs, z, y, x) float32 in 0..1, on the grid of a scan; 0 where nobody was drawn."""
        share = self.hits / np.maximum(self.people, 1)[:, :, None, None]
        along = np.einsum("zf,nfyx->nzyx", _linear(place.ruler_mm, self.frame.ruler_mm), share)
        for axis in (0, 1):
            given = self.frame.across(axis)[0]
            weights = np.stack([_linear(wanted, given) for wanted in place.across(axis)])
            along = np.einsum(ACROSS[axis], weights, along)
        return np.clip(along, 0, 1)


def binary(share: np.ndarray) -> np.ndarray:
    """The binary mask of each organ of a placed share (organs, z, y, x): its likeliest voxels, as many as people have.

    A share sums to the number of voxels that a person has there. A majority would be no rule: thin organs lie in the
    same voxel in less than half of the people, so their mask would be empty. Returns float32 zeros and ones.
    """
    masks = np.zeros(share.shape, np.float32)
    for mask, one in zip(masks, share, strict=True):
        count = round(float(one.sum()))
        if count:
            threshold = np.partition(one, -count, axis=None)[-count]
            mask[:] = (one >= threshold) & (one > 0)
    return masks


def _in_frame(person: LabeledPerson, frame: Placement) -> tuple[np.ndarray, np.ndarray]:
    """A person's masks (organs, z, y, x) and where they are known (organs, z) in the frame, half precision."""
    masks = person.masks.astype(np.float32)
    for axis in (0, 1):
        wanted = frame.across(axis)[0]
        weights = np.stack([_linear(wanted, given) for given in person.place.across(axis)])
        masks = np.einsum(ACROSS[axis], weights, masks)
    along = _linear(frame.ruler_mm, person.place.ruler_mm)
    known = person.known.astype(np.float32) @ along.T >= 0.5
    masks = np.einsum("zf,nfyx->nzyx", along, masks) * known[:, :, None, None]
    return masks.astype(np.float16), known.astype(np.float16)


def _linear(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
    """(wanted, given) float32 weights that interpolate values at growing coordinates; rows outside are 0."""
    index = np.interp(wanted, given, np.arange(len(given)), left=-1, right=-1)
    low = np.clip(np.floor(index).astype(int), 0, max(len(given) - 2, 0))
    weights = np.zeros((len(wanted), len(given)), np.float32)
    inside = index >= 0
    rows = np.flatnonzero(inside)
    weights[rows, low[inside]] = 1 - (index - low)[inside]
    if len(given) > 1:
        weights[rows, low[inside] + 1] += (index - low)[inside]
    return weights
