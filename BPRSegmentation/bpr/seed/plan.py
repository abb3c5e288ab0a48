"""What a fine-tuning is going to do, decided once and stored: another run with the same plan gives the same model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from bpr.errors import InputError
from bpr.models import sha256
from bpr.seed.case import SeedCase
from bpr.seed.memory import PRESETS, Memory


@dataclass(frozen=True)
class Recipe:
    """Settings that a novice need not touch.

    Attributes:
        learning_rate: of the decoder; the encoder's is multiplied by ``encoder_scale``, 0 freezes it.
        batch: patches a step. rarity: see bpr.training.segmentation.marginal_loss.
        checks: how often the model is measured in the planned steps. patience: checks without a better one until the
            training stops. gap: difference of training and validation Dice that is called memorising.
    """

    learning_rate: float = 1e-3
    encoder_scale: float = 0.3
    batch: int = 2
    rarity: float = 0.5
    checks: int = 12
    patience: int = 5
    gap: float = 0.15
    blends: tuple[float, ...] = (1.0, 0.75, 0.5)
    memory: Memory = field(default_factory=lambda: PRESETS["default"])


@dataclass(frozen=True)
class Plan:
    """One training, as stored in ``plan.json``.

    Attributes:
        bundle: name and SHA-256 of the weights of the model it starts from.
        organs: structure IDs to learn; empty means all that the bundle knows.
        steps: planned length. seconds: the time budget it was made for.
        precision: "single" or "bfloat16", the faster one on the device.
        cases: case ID to "part:digest" of everything that teaches; a changed project cannot be resumed.
        together: folders of other projects whose training cases are learned beside.
    """

    bundle: str
    weights: str
    organs: tuple[str, ...]
    steps: int
    seconds: float
    device: str
    precision: str
    threads: int
    seed: int
    recipe: Recipe
    cases: dict[str, str]
    together: tuple[str, ...] = ()

    @property
    def check_every(self) -> int:
        """Steps between two measurements."""
        return max(1, self.steps // self.recipe.checks)

    def to_json(self) -> dict:
        """Plain values for plan.json."""
        return asdict(self) | {"organs": list(self.organs), "together": list(self.together)}

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read plan.json. Raises InputError when it is damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            recipe = dict(content["recipe"])
            recipe |= {"memory": Memory(**recipe["memory"]), "blends": tuple(recipe["blends"])}
            content |= {"recipe": Recipe(**recipe), "organs": tuple(content["organs"])}
            content["together"] = tuple(content.get("together", ()))
            return cls(**{name.name: content[name.name] for name in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"The training in {path.parent} cannot be resumed: plan.json is damaged ({error}).",
                             "Start a new one without --resume.") from None  # fmt: skip


def digest(case: SeedCase) -> str:
    """SHA-256 over everything of a case that teaches: its voxels, labels, segment map, marks and side of the split."""
    content = [case.part.value, sha256(case.volume_path), sha256(case.segmentation_path), list(case.segments),
               [mark.to_json() for mark in case.marks], case.patient, case.domain]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse_budget(text: str) -> float:
    """ "5m", "90s", "1h" or minutes as a plain number, in seconds. Raises InputError."""
    units = {"s": 1, "m": 60, "h": 3600}
    text = text.strip().lower()
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 60)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 7 * 86400:
        raise InputError(f"A time budget of {text!r} is not possible.", "Write it as in 90s, 10m or 2h.")
    return seconds
