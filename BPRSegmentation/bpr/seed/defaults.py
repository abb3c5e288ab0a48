"""Which of a person's own models is in use for each slot, and the way back. Kept beside the models as defaults.json.

The file holds, for every slot ("pelvis", "baseline", ...), the names that were put into use, the latest last. A model
that has been removed meanwhile is passed over; an empty list means the model that ships.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from bpr.errors import InputError
from bpr.models import Bundle, choose_bundles, import_bundle, sha256, used_models, user_models_dir
from bpr.seed.files import write_json, writing


def defaults_file() -> Path:
    """Where the choices are kept."""
    return user_models_dir() / "defaults.json"


def installed_as(folder: Path) -> str:
    """Name under which a bundle with these weights is installed; "" when it is not."""
    weights = sha256(Bundle(folder).weights)
    for other in user_models_dir().iterdir() if user_models_dir().is_dir() else ():
        if Bundle(other).weights.is_file() and sha256(Bundle(other).weights) == weights:
            return other.name
    return ""


def use_model(folder: Path) -> Bundle:
    """Install a bundle unless it is, and make it the default of its slot.

    Where another model has its name already, from another project, it gets the next free one.

    Raises:
        BundleError: the bundle is damaged. OutputError: the disk is full.
    """
    name = installed_as(folder) or _installed(folder)
    bundle = Bundle(user_models_dir() / name)
    bundle.verify()
    content = used_models()
    stack = [other for other in content.get(bundle.slot, []) if other != name]
    _write(content | {bundle.slot: [*stack, name]})
    return bundle


def _installed(folder: Path) -> str:
    """Copy a bundle into the user's models folder; returns its name there."""
    name, root, number = folder.name, folder.name.rpartition("_seed")[0] or folder.name, 1
    while (user_models_dir() / name).exists():
        number += 1
        name = f"{root}_seed{number}"
    with writing(user_models_dir()), tempfile.TemporaryDirectory() as scratch:
        return import_bundle(shutil.copytree(folder, Path(scratch) / name)).name


def roll_back(slot: str) -> str:
    """Go back to the model that was in use before; returns the name of the one in use now.

    Raises:
        InputError: when the slot's model is the one that ships.
    """
    content = used_models()
    if not content.get(slot):
        raise InputError(f"The model of {slot} is the one that ships.", "There is nothing to go back to.")
    _write(content | {slot: content[slot][:-1]})
    return in_use(slot)


def in_use(slot: str) -> str:
    """Name of the model that runs for a slot."""
    chosen = choose_bundles([]).get(slot)
    return chosen.name if chosen else ""


def _write(content: dict[str, list[str]]) -> None:
    folder = user_models_dir()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(defaults_file(), content)
