"""What can be taught: organs of the common label table, or the tissues of a slice, which have a table of their own.

IDs, names and terms are different in both tables, so a structure is found by its ID alone; label values are not.
"""

from __future__ import annotations

from bpr.body_composition.tissues import DRAWN, ROLE
from bpr.models import Bundle
from bpr.segmentation.labels import Structure, label_table, structure_by_id


def table_of(bundle: Bundle) -> tuple[Structure, ...]:
    """The label table of a bundle's answers."""
    return DRAWN if bundle.role == ROLE else label_table()


def structures_of(bundle: Bundle) -> tuple[Structure, ...]:
    """What a bundle can be taught, ordered as its metadata says."""
    return DRAWN if bundle.role == ROLE else tuple(structure_by_id(name) for name in bundle.facts["structures"])


def all_structures() -> tuple[Structure, ...]:
    """Organs, then tissues."""
    return (*label_table(), *DRAWN)


def find_structure(identifier: str) -> Structure:
    """The organ or tissue with this ID. Raises KeyError when there is none."""
    for structure in all_structures():
        if structure.id == identifier:
            return structure
    raise KeyError(identifier)
