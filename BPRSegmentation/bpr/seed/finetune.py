"""Fine-tuning a bundle on a project's cases within a time budget, for the command line and the module alike.

The stages: gather the cases, measure the untouched model, plan the steps that the budget allows, train while a watcher
keeps the best weights, write the new bundle, measure it, compare, write the card.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import nn

from bpr.compute.device import choose, device_name
from bpr.compute.engines import open_engine
from bpr.compute.torch_networks import load_network
from bpr.errors import InputError, MemoryShortage
from bpr.models import Bundle, find_bundle, sha256
from bpr.seed.blending import Maker, best_blend
from bpr.seed.compare import Comparison
from bpr.seed.files import check_free, lock, writing
from bpr.seed.learn import Mix, Watcher, predictor, rate_groups, schedule_of, seed_loss
from bpr.seed.material import Material, gather, gather_together
from bpr.seed.measure import OrganDice, measure
from bpr.seed.memory import ElasticWeights, OldModel
from bpr.seed.pictures import draw_curves, draw_worst
from bpr.seed.plan import Plan, Recipe, digest
from bpr.seed.project import SeedProject
from bpr.seed.publish import new_name, write_card
from bpr.seed.runs import BEFORE, CHECKPOINT, OUTCOME, PLAN, Run, clear_away, new_run, resumable_run, runs, withdraw
from bpr.training.loop import Trainer

Emit = Callable[[dict], None]
EXPORT_S = 15.0  # of the budget for writing the bundle
MARGIN = 0.85  # of the time that is left is planned for; the rest is for a busy machine
CHECK_SHARE = 0.2  # of the training time that measuring may take
LEAST_STEPS = 10
CHECKED_TRAINING = 2  # training cases that are measured with the validation cases, to see memorising
RUN_BYTES = 200 * 2**20
STAGES = {"gathering": "Reading the cases", "before": "Measuring the old model", "training": "Training",
          "writing": "Writing the new model", "after": "Measuring the new model"}  # fmt: skip
ENDS = {"": "all steps were done", "time": "the time was over", "stop": "stopped by a person",
        "no gain": "no further gain", "memorising": "it only memorised the training cases"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        budget_s: time for everything; ``elapsed_s`` of it have gone by already, loading torch.
        steps: fixes the length instead of the budget. organs: structure IDs to learn; empty means all.
        memory_cases: whether phantoms take part.
        together: folders of other projects to learn together with.
    """

    budget_s: float = 600.0
    elapsed_s: float = 0.0
    steps: int = 0
    organs: tuple[str, ...] = ()
    device: str = "auto"
    seed: int = 0
    resume: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    memory_cases: bool = True
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came out of a training. ``state`` is "done" or "paused"; a paused one has neither bundle nor comparison."""

    state: str
    run: Run
    bundle: Bundle | None = None
    comparison: Comparison | None = None


def finetune(project: SeedProject, request: Request, emit: Emit = lambda event: None) -> Outcome:
    """Train, compare, and write the new bundle into the project's run folder; nothing is put into use.

    Raises:
        InputError and its kinds: another training runs, nothing can teach, the budget is too short, the project
            changed since the training that is to be resumed, the disk is full. The project is as it was then.
    """
    holder = project.folder / "training.lock"
    with (
        writing(project.folder),
        lock(holder, "A training of this project is running.", "Wait for its end, or pause it."),
    ):
        try:
            return _Job(project, request, emit).run()
        except torch.cuda.OutOfMemoryError as error:
            raise MemoryShortage("The graphics card has too little free memory for a training.",
                                 "Use --device cpu, or close what else uses the card.") from error  # fmt: skip


class _Job:
    """One training from start to end; its methods are the stages."""

    def __init__(self, project: SeedProject, request: Request, emit: Emit):
        self.project, self.request, self.emit = project, request, emit
        self.started = time.monotonic() - request.elapsed_s

    def run(self) -> Outcome:
        """All stages in turn."""
        bundle = find_bundle(self.project.bundle)
        if not bundle.can_learn:
            raise InputError(f"{bundle.name} cannot learn from cases.", "Start from a segmentation model of CT.")
        bundle.verify()
        clear_away(self.project.folder)
        resumed = resumable_run(self.project.folder) if self.request.resume else None
        check_free(self.project.folder, RUN_BYTES)
        self._stage("gathering")
        material, cases = gather(self.project, bundle, self._organs(resumed), self.request.memory_cases)
        names = Plan.read(resumed.folder / PLAN).together if resumed else self.request.together
        others = gather_together(names, bundle, self.project, self._organs(resumed))
        material = replace(material, together=[taught for _, taught in others])
        self.taught = {case.id: digest(case) for case in cases}
        self.taught |= {f"{case.folder.parents[1].name}/{case.id}": digest(case) for case, _ in others}
        for notice in material.notices:
            self.emit({"event": "warning", "code": notice.code, "message": notice.message})
        device = choose("torch", self.request.device)[1]
        self._say_device(device)
        network = load_network(bundle).to(device).to(memory_format=material.kind.memory_format)
        self._stage("before")
        before = self._before(material, resumed)
        plan = Plan.read(resumed.folder / PLAN) if resumed else self._plan(material, network, device)
        if resumed:
            _check_unchanged(plan, bundle, self.taught)
            plan = replace(plan, device=device)
        run = resumed or self._new_run(plan, before)
        withdraw(run)
        watcher = self._train(run, plan, material, network)
        if watcher.reason == "pause":
            self.emit({"event": "result", "state": "paused", "run": str(run.folder)})
            return Outcome("paused", run)
        return self._finish(run, plan, material, cases, network, before, watcher)

    def _organs(self, resumed: Run | None) -> tuple[str, ...]:
        return Plan.read(resumed.folder / PLAN).organs if resumed else self.request.organs

    def _stage(self, name: str) -> None:
        self.emit({"event": "stage", "name": name, "text": STAGES[name]})

    def _say_device(self, device: str) -> None:
        if device == "cpu":
            text = "Training runs on the CPU: it works, but a graphics card would be many times faster."
            self.emit({"event": "warning", "code": "cpu", "message": text})
        self.emit({"event": "metric", "name": "device", "value": device, "text": device_name(device)})

    def _before(self, material: Material, resumed: Run | None) -> list[OrganDice]:
        """Measure the untouched model, or read what was measured before the interruption."""
        started = time.monotonic()
        stored = resumed and _read_dice(resumed)
        predict = None if stored else open_engine(device="cpu").predictor(material.bundle)
        found = stored or self._measured(material, predict)
        self.measuring_s = time.monotonic() - started
        return found

    def _measured(self, material: Material, predict) -> list[OrganDice]:
        cases = material.validation + material.remembered
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            self.emit({"event": "progress", "fraction": round(done / len(cases), 4), "done": done,
                       "total": len(cases), "unit": "cases", "remaining_s": None})  # fmt: skip

        return measure(material.kind, cases, predict, advance)

    def _plan(self, material: Material, network: nn.Module, device: str) -> Plan:
        """How many steps the budget allows; an equal plan of an earlier run gives the same number again."""
        request = self.request
        plan = Plan(material.bundle.name, sha256(material.bundle.weights), request.organs, request.steps,
                    request.budget_s, device, "single", torch.get_num_threads(), request.seed, request.recipe,
                    self.taught, tuple(request.together))  # fmt: skip
        if request.steps:
            return plan
        for earlier in reversed(runs(self.project.folder)):
            with contextlib.suppress(InputError):  # a damaged plan of another training is no obstacle
                same = Plan.read(earlier.folder / PLAN)
                if replace(same, steps=0, precision="single", recipe=request.recipe) == plan:
                    return same
        pace, precision = self._pace(material, network, plan)
        check = self._check_seconds(material, network, device, precision == "bfloat16")
        left = self._left()
        checks = int(np.clip(CHECK_SHARE * left / check - 2, 2, request.recipe.checks))
        steps = int((left * MARGIN - (checks + 2) * check) / pace)
        if steps < LEAST_STEPS:
            needed = request.budget_s - left + LEAST_STEPS * pace + 4 * check + 10
            raise InputError(f"A budget of {request.budget_s:.0f} s is too short for reading, measuring and writing.",
                             f"Give at least {needed:.0f} s.")  # fmt: skip
        return replace(plan, steps=steps, precision=precision, recipe=replace(request.recipe, checks=checks))

    def _left(self) -> float:
        """Seconds of the budget that training may use: the new model has still to be written and measured."""
        return self.request.budget_s - (time.monotonic() - self.started) - self.measuring_s - EXPORT_S

    def _pace(self, material: Material, network: nn.Module, plan: Plan) -> tuple[float, str]:
        """Seconds a step, and the faster of both precisions, tried on a copy."""
        paces = {}
        for precision in ("single", "bfloat16"):
            trial = copy.deepcopy(network).train()
            loss_of = self._loss(material, replace(plan, precision=precision), trial)
            for k in range(3):  # the first one warms up
                started = time.monotonic()
                loss_of(trial, np.random.default_rng(k)).backward()
                paces[precision] = time.monotonic() - started
        precision = min(paces, key=paces.get)
        return paces[precision] * 1.1, precision

    def _check_seconds(self, material: Material, network: nn.Module, device: str, bfloat: bool) -> float:
        """Seconds of one measurement while training."""
        started = time.monotonic()
        case = (material.validation + material.training)[:1]
        measure(material.kind, case, predictor(network.eval(), material.kind, device, bfloat))
        return (time.monotonic() - started) * (len(material.validation) + CHECKED_TRAINING)

    def _new_run(self, plan: Plan, before: list[OrganDice]) -> Run:
        run = new_run(self.project.folder)
        run.write(BEFORE, [asdict(result) for result in before])
        run.write(PLAN, plan.to_json())
        return run

    def _loss(self, material: Material, plan: Plan, network: nn.Module):
        memory, kind = plan.recipe.memory, material.kind
        mix = Mix(material.training, material.replay, kind, memory.replay, material.together)
        old = OldModel(network) if memory.lwf else None
        elastic = None
        if memory.ewc and material.replay:
            draws = Mix(material.replay, [], kind, 0.0)
            rng = np.random.default_rng(plan.seed)
            torch.manual_seed(plan.seed)
            patches = (draws.draw(rng)[0].to(plan.device) for _ in range(16))
            elastic = ElasticWeights(network, patches)
        return seed_loss(mix, kind, plan.recipe, old, elastic, plan.device, plan.precision == "bfloat16")

    def _train(self, run: Run, plan: Plan, material: Material, network: nn.Module) -> Watcher:
        """The training proper; afterwards the network holds the best weights."""
        self._stage("training")
        groups = rate_groups(network, plan.recipe.encoder_scale, material.kind.encoder)
        loss_of = self._loss(material, plan, network)  # before resuming: the old model is the parent
        trainer = Trainer(network, groups, schedule_of(plan), run.folder)
        resumed = trainer.resume()
        largest = sorted(material.training, key=lambda case: -case.shown)

        def report(event: dict) -> None:
            if event.get("name") == "dice":  # the picture first: who hears of a measurement may look at it
                draw_curves(watcher.history, material.held_out, run.folder / "curves.png")
            self.emit(event)

        limit = math.inf if self.request.steps else max(self._left(), 1.0)
        watcher = Watcher(trainer, plan, limit, material.kind, largest[:CHECKED_TRAINING],
                          material.validation, report)  # fmt: skip
        if resumed:
            for entry in watcher.history:
                self.emit({"event": "metric", "name": "dice"} | entry)
        watcher.start()
        if trainer.step < plan.steps:
            trainer.run(loss_of, report_every=10**9, watch=watcher.after_step)
        if watcher.reason != "pause":
            best = torch.load(watcher.weights_path(trainer.notes["best"]), map_location=plan.device, weights_only=True)
            network.load_state_dict(best)
        return watcher

    def _finish(self, run: Run, plan: Plan, material: Material, cases, network, before, watcher: Watcher) -> Outcome:
        """Write the bundle, measure it as it will run, compare, write card and outcome."""
        parent, step = material.bundle, watcher.trainer.step
        name = new_name(parent, self.project.folder / "runs")
        maker = Maker(run.folder / name, network, plan, material, step, before)
        found = best_blend(maker, self._stage, self._measured, self._in_time)
        bundle, comparison = found.bundle, found.comparison
        facts = {"steps": step, "best": watcher.best["step"], "reason": ENDS[watcher.reason], "share": found.share}
        write_card(bundle, material, plan, cases, comparison, facts)
        predict = open_engine(device="cpu").predictor(bundle)
        pictures = draw_worst(material, found.after, predict, run.folder)
        content = {"bundle": name, "parent": parent.name, "comparison": comparison.to_json(), **facts,
                   "accepted": comparison.accepted, "sentences": comparison.sentences,
                   "gap": watcher.best["gap"], "pictures": [path.name for path in pictures],
                   "seconds": round(time.monotonic() - self.started, 1)}  # fmt: skip
        run.write(OUTCOME, content)
        (run.folder / CHECKPOINT).unlink(missing_ok=True)
        self.emit({"event": "result", "state": "done", "run": str(run.folder), **content})
        return Outcome("done", run, bundle, comparison)

    def _in_time(self) -> bool:
        """Whether another model can be written and measured within the budget."""
        return bool(self.request.steps) or self._left() > self.measuring_s


def _check_unchanged(plan: Plan, bundle: Bundle, now: dict[str, str]) -> None:
    """Raises InputError when what teaches, or the model to start from, is not what the training began with."""
    if plan.cases != now or plan.bundle != bundle.name or plan.weights != sha256(bundle.weights):
        changed = sorted(name for name in plan.cases.keys() | now.keys() if plan.cases.get(name) != now.get(name))
        raise InputError(f"The project has changed since this training began ({', '.join(changed) or bundle.name}).",
                         "Start a new one without --resume.")  # fmt: skip


def _read_dice(run: Run) -> list[OrganDice] | None:
    """The old model's numbers as they were measured; None when the file is damaged."""
    try:
        return [OrganDice(**entry) for entry in json.loads((run.folder / BEFORE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None
