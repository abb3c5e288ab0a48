"""Sentences of the panel that need some arithmetic."""

from __future__ import annotations

from slicer.i18n import tr as _

MEMORISING = 0.15  # gap of training and validation Dice that is called so, as in bpr.seed.plan.Recipe


def time_text(seconds: float | None) -> str:
    """ "about 3 min left", or nothing when it is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return _("about {seconds} s left").format(seconds=max(1, round(seconds)))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))


def gap_text(entry: dict, old: float) -> str:
    """What the last measurement means: Dice, what the old model had, and the gap by name."""
    text = _("Step {step}: Dice {dice:.3f} (old model {old:.3f}), on the training cases {training:.3f}.")
    words = [text.format(step=entry["step"], dice=entry["dice"], old=old, training=entry["training_dice"])]
    if entry["gap"] > MEMORISING:
        words.append(_("The gap of {gap:.2f} means that the model memorises its training cases; more cases help, more "
                       "training does not.").format(gap=entry["gap"]))  # fmt: skip
    return " ".join(words)


def estimate_text(minutes: int, cases: int, validation: int) -> str:
    """What a training with this budget will do."""
    text = _("{cases} accepted cases, {validation} of them validate. Ready in {minutes} minutes at most.")
    return text.format(cases=cases, validation=validation, minutes=minutes)
