"""`bpr seed ...` and `bpr finetune`: what the training module does, at the terminal."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bpr.errors import InputError
from bpr.seed.case import Part, State
from bpr.seed.marks import Mark, parse_slices, slices_text

if TYPE_CHECKING:
    from bpr.seed.project import SeedProject

STATES = [state.value for state in State]


def add_seed(commands) -> None:
    """Register `bpr seed` and `bpr finetune` with the argument parser's commands."""
    seed = commands.add_parser("seed", help="corrected cases that teach a better model")
    actions = seed.add_subparsers(required=True, metavar="ACTION")
    _add_cases(actions)
    _add_project(actions)
    _add_finetune(commands)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _command(actions, name: str, help_text: str, action) -> argparse.ArgumentParser:
    command = actions.add_parser(name, help=help_text)
    command.add_argument("project", type=Path, help="folder of the project")
    command.add_argument("--json", action="store_true", help="print JSON lines, as the training module wants them")
    command.set_defaults(action=action)
    return command


def _add_cases(actions) -> None:
    add = _command(actions, "add", "add a case: a volume with what was corrected in it", _add)
    add.add_argument("--volume", type=Path, required=True, help="NIfTI, NRRD, MetaImage or a folder of DICOM")
    add.add_argument("--segmentation", type=Path, help=".seg.nrrd of Slicer, or a label map")
    add.add_argument("--domain", help="scanner and protocol; without it, from DICOM tags where there are some")
    add.add_argument("--patient", default="", help="pseudonym; cases of one patient stay on one side of the split")
    add.add_argument("--id", default="", help="name of the case in the project")
    add.add_argument("--map", action="append", default=[], metavar="SEGMENT=ORGAN", help="what a segment stands for")
    add.add_argument(
        "--part", choices=[part.value for part in Part if part.value], default="", help="side of the split"
    )
    _mark_options(add)
    mark = _command(actions, "mark", "say which slices and organs of a case are right", _mark)
    mark.add_argument("case")
    mark.add_argument("--replace", action="store_true", help="forget the earlier marks")
    _mark_options(mark)
    correct = _command(actions, "correct", "store a corrected segmentation; the case goes into review", _correct)
    correct.add_argument("case")
    correct.add_argument("--segmentation", type=Path, required=True)
    correct.add_argument("--role", default="annotator", help="who says so, by role")
    proposal = _command(actions, "propose", "let a model fill in what is not marked in a case", _propose)
    proposal.add_argument("case")
    proposal.add_argument(
        "--bundle", help="default: the last trained model of the project, else the one it starts from"
    )
    state = _command(actions, "state", "accept, exclude or put into review", _state)
    state.add_argument("case")
    state.add_argument("state", choices=STATES)
    remove = _command(actions, "remove", "delete a case", _remove)
    remove.add_argument("case")


def _mark_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--slices", help="such as 10-20,35 (from 0, along the slice axis), or all")
    command.add_argument("--organs", type=_names, help="only these organs are right there; default: all that are drawn")
    command.add_argument("--role", default="annotator", help="who says so, by role")


def _add_project(actions) -> None:
    init = _command(actions, "init", "start a project", _init)
    init.add_argument("--bundle", required=True, help="model to start from, see bpr models list")
    _command(actions, "list", "all cases with state, marks and side of the split", _list)
    split = _command(actions, "split", "divide the cases into training and validation by patient", _split)
    split.add_argument("--again", action="store_true", help="also those that are divided already")
    _command(actions, "suggest", "what to label next, and why", _suggest)
    export = _command(actions, "export", "write the project as a zip file", _export)
    export.add_argument("target", type=Path)
    importer = _command(actions, "import", "make a project from an exported zip file", _import)
    importer.add_argument("archive", type=Path)
    device = _command(actions, "device", "what a training would run on", _device)
    device.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    _command(actions, "use", "put the last trained model into use", _use)
    back = actions.add_parser("rollback", help="go back to the model that was in use before")
    back.add_argument("slot", help="region, or baseline")
    back.set_defaults(action=_rollback)


def _add_finetune(commands) -> None:
    train = _command(commands, "finetune", "train a project's model on its cases, within a time budget", _finetune)
    train.add_argument("--budget", default="10m", help="such as 90s, 10m, 2h (default 10m)")
    train.add_argument("--steps", type=int, default=0, help="this many steps instead of what the budget allows")
    train.add_argument("--organs", type=_names, default=(), help="learn these organs only")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--freeze-encoder", action="store_true", help="learn with the decoder only")
    train.add_argument("--memory", default="default", help="default, none, replay, lwf or ewc: against forgetting")
    train.add_argument("--resume", action="store_true", help="go on with the training that was stopped")
    train.add_argument(
        "--together",
        action="append",
        type=os.path.abspath,
        default=[],
        metavar="PROJECT",
        help="learn together with the training cases of this other project (repeatable)",
    )
    train.add_argument("--use", action="store_true", help="put the model into use if nothing speaks against it")


def _open(options: argparse.Namespace) -> SeedProject:
    from bpr.seed.project import SeedProject

    return SeedProject.open(options.project)


def _say(options: argparse.Namespace, text: str, **facts) -> None:
    """The result of a command: words at the terminal, an event for the module."""
    if options.json:
        from bpr.job import print_event

        print_event({"event": "result", "text": text, **facts})
    else:
        print(text)


def _init(options: argparse.Namespace) -> None:
    from bpr.models import find_bundle
    from bpr.seed.project import SeedProject

    bundle = find_bundle(options.bundle)
    if not bundle.can_learn:
        raise InputError(f"{bundle.name} cannot learn from cases.", "Start from a segmentation model of CT.")
    print(SeedProject.create(options.project, options.bundle).folder)


def _marks(options: argparse.Namespace) -> tuple[Mark, ...]:
    if options.slices is None and options.organs is None:
        return ()
    return (Mark(parse_slices(options.slices or "all"), options.organs or ()),)


def _add(options: argparse.Namespace) -> None:
    from bpr.seed.domain import domain_of

    pairs = [text.partition("=") for text in options.map]
    if any(not separator for _, separator, _ in pairs):
        raise InputError("--map needs SEGMENT=ORGAN.", "For example --map 'Segment_1=liver'.")
    domain = domain_of(options.volume) if options.domain is None else options.domain
    case = _open(options).add(
        options.volume, options.segmentation, _marks(options), domain=domain, patient=options.patient,
        identifier=options.id, mapping={key: value for key, _, value in pairs}, role=options.role,
        part=Part(options.part),
    )  # fmt: skip
    organs = ", ".join(case.structures) or "no labels"
    text = f"{case.id}: {organs}; {case.state.value}, domain {case.domain or '-'}"
    _say(options, f"{text}{_ignored(case)}", case=case.id)


def _ignored(case) -> str:
    names = [entry["name"] for entry in case.segments if not entry["structure"]]
    return f"\nThese segments stand for no known organ and teach nothing: {', '.join(names)}." if names else ""


def _correct(options: argparse.Namespace) -> None:
    case = _open(options).replace_segmentation(options.case, options.segmentation, options.role)
    _say(options, f"{case.id}: {case.state.value}{_ignored(case)}", case=case.id)


def _mark(options: argparse.Namespace) -> None:
    marks = _marks(options)
    if not marks and not options.replace:
        raise InputError("Nothing was marked.", "Give --slices, --organs, or both.")
    case = _open(options).mark(options.case, marks, options.role, options.replace)
    _say(options, f"{case.id}: {case.state.value}; right: {slices_text(case.marks) or 'nothing'}", case=case.id)


def _need_training_packages() -> None:
    """Raises InputError when what a training imports is not installed."""
    from bpr.compute.device import installed

    missing = [name for name in ("torch", "monai", "safetensors", "onnx") if not installed(name)]
    if missing:
        advice = "pip install 'bodypartregression[train]'; in Slicer, the training module installs it."
        raise InputError(f"Training needs {', '.join(missing)}, which is not installed.", advice)


def _propose(options: argparse.Namespace) -> None:
    _need_training_packages()
    from bpr.models import Bundle, find_bundle
    from bpr.seed.propose import propose
    from bpr.seed.runs import runs

    project = _open(options)
    trained = [run.bundle_folder for run in runs(project.folder) if run.bundle_folder]
    name = options.bundle or project.bundle
    bundle = Bundle(trained[-1]) if trained and not options.bundle else find_bundle(name)
    case = propose(project, options.case, bundle)
    text = f"{case.id}: what is not marked is now as {bundle.name} sees it; correct it and mark more."
    _say(options, text, case=case.id)


def _state(options: argparse.Namespace) -> None:
    _open(options).set_state(options.case, State(options.state))


def _remove(options: argparse.Namespace) -> None:
    _open(options).remove(options.case)


def _list(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    project = _open(options)
    cases, damaged = project.cases()
    table = Table("case", "patient", "domain", "state", "side", "right", "organs")
    for case in cases:
        table.add_row(case.id, case.patient, case.domain, case.state.value, case.part.value or "not decided",
                      slices_text(case.marks), str(len(case.structures)))  # fmt: skip
    console = Console(highlight=False)
    console.print(f"{options.project}: {len(cases)} cases, starts from {project.bundle}")
    console.print(table)
    for error in damaged:
        console.print(f"  [yellow]damaged[/] {error}")


def _split(options: argparse.Namespace) -> None:
    for name, part in _open(options).split(options.again).items():
        print(f"{name}: {part.value}")


def _suggest(options: argparse.Namespace) -> None:
    from bpr.seed.suggest import suggest

    volumes, slices = suggest(_open(options))
    lines = [f"{k}. volume {found.case} (gain {found.gain:.2f}): {found.reason}" for k, found in enumerate(volumes, 1)]
    lines += [f"slice {found.slice} of {found.case} (gain {found.gain:.3f}): {found.reason}" for found in slices[:10]]
    _say(options, "\n".join(lines) or "There is nothing left to label.")


def _export(options: argparse.Namespace) -> None:
    from bpr.seed.archive import export_project

    _say(options, str(export_project(_open(options), options.target)))


def _import(options: argparse.Namespace) -> None:
    from bpr.seed.archive import import_project

    project = import_project(options.archive, options.project)
    _say(options, f"{project.folder}: {len(project.case_ids())} cases", project=str(project.folder))


def _device(options: argparse.Namespace) -> None:
    from bpr.compute.device import choose, device_name

    device = choose("torch", options.device)[1]
    _say(options, device_name(device), device=device)


def _use(options: argparse.Namespace) -> None:
    from bpr.seed.defaults import use_model
    from bpr.seed.runs import latest

    run = latest(_open(options).folder)
    if run is None or run.bundle_folder is None:
        raise InputError("There is no trained model in this project.", "Train one with: bpr finetune PROJECT.")
    bundle = use_model(run.bundle_folder)
    print(f"{bundle.name} is in use for {bundle.slot}.")


def _rollback(options: argparse.Namespace) -> None:
    from bpr.seed.defaults import roll_back

    print(f"{roll_back(options.slot)} is in use for {options.slot}.")


def _finetune(options: argparse.Namespace) -> None:
    # Before torch is loaded: threads that wait by spinning take the cores from each other on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    _need_training_packages()
    import psutil

    from bpr.job import print_event
    from bpr.seed.finetune import Request, finetune
    from bpr.seed.memory import PRESETS
    from bpr.seed.plan import Recipe, parse_budget

    if options.memory not in PRESETS:
        raise InputError(f"There is no memory {options.memory!r}.", f"Choose one of: {', '.join(PRESETS)}.")
    recipe = Recipe(memory=PRESETS[options.memory])
    if options.freeze_encoder:
        recipe = replace(recipe, encoder_scale=0.0)
    elapsed = time.time() - psutil.Process().create_time()
    request = Request(parse_budget(options.budget), elapsed, options.steps, options.organs, options.device,
                      options.seed, options.resume, recipe, together=tuple(options.together))  # fmt: skip
    project = _open(options)
    outcome = finetune(project, request, print_event) if options.json else _at_the_terminal(project, request)
    if options.use and outcome.comparison and outcome.comparison.accepted:
        from bpr.seed.defaults import use_model

        use_model(outcome.bundle.folder)


def _at_the_terminal(project: SeedProject, request):
    from bpr.seed.compare import markdown
    from bpr.seed.finetune import finetune
    from bpr.terminal import ProgressBar

    with ProgressBar() as bar:
        outcome = finetune(project, request, lambda event: _show(event, bar))
    if outcome.state == "paused":
        print("Paused. Go on with: bpr finetune PROJECT --resume")
        return outcome
    print(markdown(outcome.comparison))
    print("\n".join(outcome.comparison.sentences))
    print(f"New model: {outcome.bundle.folder}")
    return outcome


def _show(event: dict, bar) -> None:
    bar.show(event)
    if event["event"] == "warning":
        print(f"note: {event['message']}", flush=True)
    elif event.get("name") == "dice":
        print(
            f"step {event['step']}: Dice {event['dice']:.3f}, training cases {event['training_dice']:.3f}", flush=True
        )
