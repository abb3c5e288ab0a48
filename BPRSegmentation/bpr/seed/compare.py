"""Whether the new model is better: Dice before and after, on validation cases and on what must not be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bpr.evaluation.statistics import Estimate, bootstrap_mean
from bpr.seed.measure import OrganDice, by_structure, change

LARGEST_LOSS = 0.01  # of mean Dice on a remembered domain; more is called forgetting


@dataclass(frozen=True)
class Group:
    """The cases of one domain with one purpose, measured before and after."""

    domain: str
    remembered: bool
    before: Estimate
    after: Estimate
    change: Estimate
    organs: dict[str, tuple[Estimate, Estimate]]


@dataclass(frozen=True)
class Comparison:
    """All groups and what they mean. ``accepted`` says whether the new model may replace the old one by itself."""

    groups: list[Group]
    accepted: bool
    sentences: list[str]

    @property
    def forgot(self) -> bool:
        """Whether a remembered domain has lost too much."""
        return any(group.remembered and group.change.mean < -LARGEST_LOSS for group in self.groups)

    def to_json(self) -> dict:
        """Plain values for outcome.json and the child-process protocol."""
        return asdict(self)


def compare(before: list[OrganDice], after: list[OrganDice], remembered: set[str], held_out: bool) -> Comparison:
    """Group the measurements by domain and judge.

    Args:
        remembered: names of the domains that must not be forgotten; all others validate.
        held_out: whether the validation cases are parts of the training cases.
    """
    groups = []
    for domain in dict.fromkeys(r.domain for r in before):
        old, new = ([r for r in rows if r.domain == domain] for rows in (before, after))
        if any(r.dice is not None for r in old):
            organs_old, organs_new = by_structure(old), by_structure(new)
            organs = {name: (organs_old[name], organs_new[name]) for name in organs_old if name in organs_new}
            groups.append(Group(domain, domain in remembered, _mean(old), _mean(new), change(old, new), organs))
    return Comparison(groups, *_verdict(groups, held_out))


def _mean(results: Sequence[OrganDice]) -> Estimate:
    """Mean over patients of their mean Dice."""
    patients: dict[str, list[float]] = {}
    for r in results:
        if r.dice is not None:
            patients.setdefault(r.patient, []).append(r.dice)
    return bootstrap_mean([sum(values) / len(values) for values in patients.values()], list(patients))


def _verdict(groups: list[Group], held_out: bool) -> tuple[bool, list[str]]:
    """Whether the new model may become the default, and why, in sentences."""
    sentences, accepted = [], True
    for group in groups:
        gain = group.change.mean
        if group.remembered and gain < -LARGEST_LOSS:
            accepted = False
            sentences.append(
                f"The new model has forgotten some of {group.domain}: Dice {group.before.mean:.3f} before, "
                f"{group.after.mean:.3f} after. The old model stays the default."
            )
        if not group.remembered and gain <= 0:
            accepted = False
            sentences.append(f"The new model is not better on {group.domain or 'the validation cases'} "
                             f"({gain:+.3f} Dice). The old model stays the default.")  # fmt: skip
    if not any(group.remembered for group in groups):
        sentences.append("Nothing could be checked for forgetting: no remembered case shows the organs of this model.")
    if accepted:
        gains = [f"{g.change.mean:+.3f} on {g.domain or 'the validation cases'}" for g in groups if not g.remembered]
        sentences.insert(0, f"The new model is better: Dice {', '.join(gains)}.")
    if held_out:
        sentences.append("The validation numbers come from parts of the training cases, so they are too good.")
    return accepted, sentences


def markdown(comparison: Comparison) -> str:
    """The before/after table with intervals, organs below their domain."""
    rows = ["| cases | Dice before | Dice after | change (95 % interval) | n |", "|---|---|---|---|---|"]
    for group in comparison.groups:
        name = f"{group.domain or 'validation'} ({'remembered' if group.remembered else 'validation'})"
        interval = f"{group.change.mean:+.3f} ({group.change.low:+.3f} to {group.change.high:+.3f})"
        rows.append(
            f"| **{name}** | {group.before.mean:.3f} | {group.after.mean:.3f} | {interval} | {group.change.n} |"
        )
        for organ, (old, new) in group.organs.items():
            rows.append(f"| {organ} | {old.mean:.3f} | {new.mean:.3f} | {new.mean - old.mean:+.3f} | {new.n} |")
    return "\n".join(rows)
