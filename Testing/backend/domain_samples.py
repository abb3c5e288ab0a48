"""Toy domains: bodies with two structures, in two looks, in milliseconds."""

from __future__ import annotations

import numpy as np

from bpr.domains.cases import DomainCase
from bpr.domains.definition import Domain
from bpr.segmentation.labels import Structure

SHAPE = (18, 20, 22)


def toy_domain(name: str, modality: str = "MR", prefix: str = "toy") -> Domain:
    """A domain of two structures, one on each side."""
    structures = tuple(
        Structure(value, f"{prefix}_{side}", f"{prefix} {side}", "toy", "5366008", "Hippocampus", "", "",
                  (0.2 * value, 0.4, 0.6), f"{prefix}_{other}", "none")
        for value, side, other in ((1, "left", "right"), (2, "right", "left"))
    )  # fmt: skip
    return Domain(name, modality, ("standard",), 1.0, structures, {s.value: s.id for s in structures})


def toy_labels(rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(z, y, x) uint8: an ellipsoid of 2 on the right (low x) and a larger one of 1 on the left."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    labels = np.zeros(shape, np.uint8)
    for value, middle, size in ((1, 0.45, 0.36), (2, -0.45, 0.26)):
        off = rng.uniform(-0.08, 0.08, 3)
        labels[((x - middle + off[0]) ** 2 + (y + off[1]) ** 2 + (z + off[2]) ** 2) < size**2] = value
    return labels


def toy_intensities(labels: np.ndarray, look: str, rng: np.random.Generator) -> np.ndarray:
    """float32 gray values: in "smooth" 2 is brighter than 1 and that than the rest, in "grainy" darker, with noise."""
    if look == "smooth":
        return (100 + 50 * labels.astype(float) + rng.normal(0, 4, labels.shape)).astype(np.float32)
    return (1000 - 300 * labels.astype(float) + rng.normal(0, 100, labels.shape)).astype(np.float32)


def toy_cases(domain: Domain, look: str, count: int, seed: int = 0) -> list[DomainCase]:
    """Cases of that look, each of a person of its own."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        labels = toy_labels(rng)
        image = domain.normalized(toy_intensities(labels, look, rng))
        known = np.ones(len(domain.structures) + 1, bool)
        cases.append(DomainCase.of(f"{look}{number}", f"{look}{number}", image, labels, known))
    return cases
