"""Where the files that both modules share lie: in the source tree and in an installed extension."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def resources_dir() -> Path:
    """Folder with ``Anatomy``, ``Models`` and ``SampleData``.

    The environment variable ``BPR_RESOURCES`` wins; else the folder beside the package (installed extension) or
    beside the module (source tree).

    Raises:
        FileNotFoundError: when none of these places holds the anatomy tables.
    """
    here = Path(__file__).resolve()
    places = [Path(os.environ["BPR_RESOURCES"])] if os.environ.get("BPR_RESOURCES") else []
    places += [here.parents[1] / "Resources", here.parents[2] / "Resources"]
    for place in places:
        if (place / "Anatomy").is_dir():
            return place
    raise FileNotFoundError(f"The anatomy tables are missing; looked in {', '.join(map(str, places))}.")


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of the CSV table ``Resources/Anatomy/<name>.csv`` as dictionaries."""
    with open(resources_dir() / "Anatomy" / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
