"""Everything a fine-tuning learns from and is measured on: training, validation, replay and remembered cases."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from bpr.errors import InputError, Notice
from bpr.models import Bundle, sha256
from bpr.seed.case import Part, SeedCase
from bpr.seed.kinds import Kind, Taught, kind_of
from bpr.seed.project import SeedProject
from bpr.seed.remembered import CHECK_SEED, REPLAY_SEEDS

HELD_OUT = 0.25  # of the marked planes, where no other patient can validate


@dataclass(frozen=True)
class Material:
    """Cases by what they are for. ``held_out`` says that validation is a part of the training cases themselves.

    ``together`` are training cases of other projects, learned beside the new ones.
    """

    kind: Kind
    training: list[Taught]
    validation: list[Taught]
    replay: list[Taught]
    remembered: list[Taught]
    held_out: bool
    notices: list[Notice] = field(default_factory=list)
    together: list[Taught] = field(default_factory=list)

    @property
    def bundle(self) -> Bundle:
        """The model that learning starts from."""
        return self.kind.bundle

    @property
    def domains(self) -> list[str]:
        """Names of the domains that are learned."""
        return sorted({case.domain for case in self.training})


def gather(
    project: SeedProject, bundle: Bundle, organs: tuple[str, ...] = (), memory_cases: bool = True
) -> tuple[Material, list[SeedCase]]:
    """Read all accepted cases of a project; damaged ones are left out with a notice.

    Cases of domains that the bundle has learned before are remembered: they are replayed, and their validation cases
    are checked for forgetting. Without ``memory_cases`` phantoms take no part (tests).

    Raises:
        InputError: nothing teaches, or the labels do not match the bundle.
    """
    project.split()
    kind = kind_of(bundle)
    good, bad = project.cases()
    notices = [Notice("damaged_case", f"{error.message} It is left out.") for error in bad]
    used, teaching = [], []
    refusal: InputError | None = None
    for case in (case for case in good if case.teaches):
        try:
            teaching.append((case, kind.teach(case, project.folder / "cache", organs)))
            used.append(case)
        except InputError as error:
            refusal = error
            notices.append(Notice("unused_case", f"{error.message} It is left out."))
    if not teaching:
        raise refusal or InputError("No case of the project can teach yet.",
                                    "Add cases and mark what is right in them: bpr seed mark.")  # fmt: skip
    learned = set(bundle.facts.get("domains", []))
    if {case.domain for case, _ in teaching} <= learned:
        learned = set()  # more of the same domain
    new = [(case, t) for case, t in teaching if case.domain not in learned]
    earlier = [(case, t) for case, t in teaching if case.domain in learned]
    material = _split(kind, new, earlier, notices)
    if memory_cases:
        material = with_memory_cases(material, project.folder / "cache")
    return material, used


def gather_together(
    names: tuple[str, ...], bundle: Bundle, own: SeedProject, organs: tuple[str, ...] = ()
) -> list[tuple[SeedCase, Taught]]:
    """Training cases of other projects, given by their folders; what they hold out for validation stays out.

    A scan that lies in ``own`` too is left out, or a patient who validates here could teach from there. Their domain is
    "<project>: <domain>", so that two projects' domains are never taken for one.

    Raises:
        InputError: there is no such project, or no case of it can teach this bundle.
    """
    found, kind = [], kind_of(bundle)
    here = {sha256(case.volume_path) for case in own.cases()[0]} if names else set()
    for name in names:
        project, count = SeedProject.open(Path(name)), len(found)
        reason = None
        for case in project.cases()[0]:
            if not case.teaches or case.part is Part.VALIDATION or sha256(case.volume_path) in here:
                continue
            try:
                taught = kind.teach(case, own.folder / "cache", organs)
            except InputError as error:
                reason = error
                continue
            found.append((case, replace(taught, domain=f"{project.folder.name}: {case.domain}")))
        if len(found) == count:
            text = f"No case of {project.folder} can teach {bundle.name}." + (f" {reason.message}" if reason else "")
            raise InputError(text, "Learn together with another project, or without one.")
    return found


def _split(kind: Kind, new: list, earlier: list, notices: list[Notice]) -> Material:
    training = [t for case, t in new if case.part is not Part.VALIDATION]
    validation = [t for case, t in new if case.part is Part.VALIDATION]
    if not training:
        raise InputError("All accepted cases of the new domain validate; none is left to teach.",
                         "Put some of them on the training side.")  # fmt: skip
    if not any(case.shown for case in training):
        raise InputError("What is marked in the training cases is empty: no organ has a voxel there.",
                         "Mark slices in which organs are drawn.")  # fmt: skip
    held_out = not validation
    if held_out:
        training, validation = hold_out(kind, training)
        text = ("No case of another patient validates, so a part of the training cases is held out. "
                "The numbers are too good: accept cases of at least three patients.")  # fmt: skip
        if not validation:
            validation = training
            text = ("So little is marked that nothing can be held out; the model is measured on what it learns, which "
                    "says nothing about new cases. Mark more slices or add patients.")  # fmt: skip
        notices = [*notices, Notice("no_validation_patients", text)]
    replay = [t for case, t in earlier if case.part is not Part.VALIDATION]
    remembered = [t for case, t in earlier if case.part is Part.VALIDATION]
    return Material(kind, training, validation, replay, remembered, held_out, notices)


def with_memory_cases(material: Material, cache: Path) -> Material:
    """Add phantoms to the replay, and another phantom to what is checked."""
    replay = [material.kind.memory_case(seed, cache) for seed in REPLAY_SEEDS]
    checked = [material.kind.memory_case(CHECK_SEED, cache)]
    return replace(
        material,
        replay=material.replay + [case for case in replay if case],
        remembered=material.remembered + [case for case in checked if case],
    )


def hold_out(kind: Kind, cases: list[Taught]) -> tuple[list[Taught], list[Taught]]:
    """Take a part of what is marked out of every case that has enough of it; returns (training, validation)."""
    pairs = [kind.hold_out(case, HELD_OUT) for case in cases]
    return [rest for rest, _ in pairs], [held for _, held in pairs if held is not None]
