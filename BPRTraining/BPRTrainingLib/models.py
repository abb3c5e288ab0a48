"""The installed model bundles, in words."""

from __future__ import annotations

from dataclasses import dataclass

from bpr.errors import BundleError
from bpr.models import Bundle, list_bundles


@dataclass(frozen=True)
class ModelEntry:
    """One row of the list: what a person chooses by, and the model card. ``problem``: a sentence or empty."""

    name: str
    task: str
    version: str
    size_mb: float
    card: str
    problem: str = ""


def installed_models() -> list[ModelEntry]:
    """All installed bundles in the order in which they are used; a damaged one is listed with its problem."""
    return [describe(bundle) for bundle in list_bundles()]


def describe(bundle: Bundle) -> ModelEntry:
    """The entry of one bundle."""
    try:
        return ModelEntry(
            name=bundle.name,
            task=str(bundle.metadata.get("task", "")),
            version=bundle.version,
            size_mb=bundle.size_mb(),
            card=bundle.card or str(bundle.metadata.get("description", "")),
        )
    except (BundleError, OSError) as error:
        return ModelEntry(bundle.name, task="", version="", size_mb=0.0, card="", problem=str(error))
