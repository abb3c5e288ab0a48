"""Stands in for ``bpr finetune``: writes a run as the backend does and prints its protocol, in a second.

python fake_training.py BEHAVIOR PROJECT       BEHAVIOR: done, forgot, memorises, wait, error, crash
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import time
from pathlib import Path

WHITE_POINT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


def say(**event) -> None:
    """One protocol line."""
    print(json.dumps(event), flush=True)


def measurement(step: int, dice: float, training: float) -> dict:
    """What the watcher says of a measurement."""
    organs = {"liver": dice + 0.1, "spleen": dice - 0.1}
    return {"step": step, "loss": 2 - step / 50, "seconds": step / 2, "dice": dice, "training_dice": training,
            "gap": training - dice, "organs": organs}  # fmt: skip


def group(domain: str, remembered: bool, before: float, after: float) -> dict:
    """One domain of a comparison."""
    mean = {"before": before, "after": after, "change": after - before}
    estimates = {key: {"mean": value, "low": value - 0.02, "high": value + 0.02, "n": 4} for key, value in mean.items()}
    organ = [{"mean": value, "low": 0, "high": 1, "n": 4} for value in (before, after)]
    return {"domain": domain, "remembered": remembered, **estimates, "organs": {"liver": organ}}


def draw(history: list[dict], path: Path) -> None:
    """One white point; the backend's curves when somebody wants to look at the panel (SEED_PICTURES)."""
    if not os.environ.get("SEED_PICTURES"):
        path.write_bytes(base64.b64decode(WHITE_POINT))
        return
    from bpr.seed.pictures import draw_curves

    draw_curves([entry | {"loss": None if entry["step"] == 0 else entry["loss"]} for entry in history], False, path)


def main(behavior: str, project: str) -> int:
    """Behave; returns the exit code."""
    say(event="stage", name="gathering", text="Reading the cases")
    if behavior == "error":
        say(event="error", type="InputError", message="The labels do not match the model.", advice="Choose another.")
        return 2
    if behavior == "crash":
        print("Segmentation fault (really)", file=sys.stderr)
        return 139
    say(event="metric", name="device", value="cpu", text="CPU (x86_64)")
    say(event="warning", code="no_validation_patients", message="No case of another patient validates.")
    number = 1 + len(list((Path(project) / "runs").glob("*")))
    run = Path(project) / "runs" / f"{number:03d}"
    run.mkdir(parents=True)
    (run / "plan.json").write_text("{}")
    say(event="stage", name="training", text="Training")
    training = 0.95 if behavior == "memorises" else 0.7
    history = [measurement(0, 0.5, 0.5)] + [measurement(step, 0.5 + step / 300, training) for step in (20, 40)]
    draw(history, run / "curves.png")
    for entry in history:
        say(event="metric", name="dice", **entry)
    say(event="progress", fraction=0.4, done=40, total=100, unit="steps", remaining_s=150)
    end = time.monotonic() + (60 if behavior == "wait" else 0)
    while time.monotonic() < end:
        if (run / "request").is_file() and (run / "request").read_text() == "pause":
            say(event="result", state="paused", run=str(run))
            return 0
        time.sleep(0.05)
    finish(run, behavior)
    return 0


def finish(run: Path, behavior: str) -> None:
    """The new bundle (a copy of one that ships) and the outcome."""
    from bpr.models import Bundle, find_bundle, write_sums

    shutil.copytree(find_bundle("bpr_pelvis").folder, run / f"bpr_pelvis_seed{int(run.name)}")
    bundle = Bundle(run / f"bpr_pelvis_seed{int(run.name)}")
    (bundle.folder / "docs" / "README.md").write_text("# fine-tuned")
    write_sums(bundle.folder)
    forgot = behavior == "forgot"
    sentence = ("The new model has forgotten some of phantom." if forgot
                else "The new model is better: Dice +0.120 on scanner A.")  # fmt: skip
    groups = [group("scanner A", False, 0.5, 0.62), group("phantom", True, 0.8, 0.75 if forgot else 0.802)]
    comparison = {"groups": groups, "accepted": not forgot, "sentences": [sentence]}
    content = {"bundle": bundle.name, "parent": "bpr_pelvis", "comparison": comparison, "steps": 100, "best": 40,
               "reason": "all steps were done", "accepted": not forgot, "sentences": [sentence], "gap": 0.05,
               "pictures": [], "seconds": 90.0}  # fmt: skip
    (run / "outcome.json").write_text(json.dumps(content))
    say(event="result", state="done", run=str(run), **content)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
