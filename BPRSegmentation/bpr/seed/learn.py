"""The learning itself: examples of new and remembered cases, the loss, layer-wise rates, and who watches over it."""

from __future__ import annotations

import contextlib
import copy
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bpr.files import whole
from bpr.seed.kinds import Kind, Taught
from bpr.seed.measure import OrganDice, mean_dice, measure
from bpr.seed.memory import ElasticWeights, OldModel
from bpr.seed.organs import Organs
from bpr.seed.plan import Plan, Recipe
from bpr.segmentation.windows import Predictor
from bpr.training.loop import Schedule, Trainer

LEAST_GAIN = 0.001  # of validation Dice that counts as better
PATIENCE_AFTER = 0.4  # of the planned steps; before, the rate has hardly begun to fall


class Mix:
    """Draws examples of the new cases and, in the share that the recipe says, of the remembered ones.

    ``together`` are cases of other projects that are learned with the new ones: each of their domains is met as often
    as all new cases, however many it has.
    """

    def __init__(self, new: list[Taught], remembered: list[Taught], kind: Kind, share: float,
                 together: Sequence[Taught] = ()):  # fmt: skip
        domains = sorted({case.domain for case in together})
        groups = [new, *([case for case in together if case.domain == domain] for domain in domains)]
        self._taught = [kind.sampler(group) for group in groups]
        self._remembered = kind.sampler(remembered) if remembered else None
        self._share = share if remembered else 0.0

    def draw(self, rng: np.random.Generator):
        """Image, target and known as the kind's sampler gives them, and whether the example is a remembered one."""
        remembered = rng.random() < self._share
        taught = self._taught[rng.integers(len(self._taught)) if len(self._taught) > 1 else 0]
        image, target, known = (self._remembered if remembered else taught).draw(rng)
        return image, target, known, remembered


def rate_groups(
    network: nn.Module, encoder_scale: float, encoder_names: re.Pattern[str] = Organs.encoder
) -> list[dict]:
    """Optimizer groups: the encoder slower (0: frozen), everything else at full rate."""
    encoder, rest = [], []
    for name, parameter in network.named_parameters():
        (encoder if encoder_names.match(name) else rest).append(parameter)
    if encoder_scale == 0:
        for parameter in encoder:
            parameter.requires_grad_(False)
        return [{"params": rest}]
    return [{"params": encoder, "scale": encoder_scale}, {"params": rest}] if encoder else [{"params": rest}]


def seed_loss(mix: Mix, kind: Kind, recipe: Recipe, old: OldModel | None, elastic: ElasticWeights | None, device: str,
              bfloat: bool):  # fmt: skip
    """The function that bpr.training.loop.Trainer calls at each step."""

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        examples = [mix.draw(rng) for _ in range(recipe.batch)]
        images = torch.cat([example[0] for example in examples]).to(device)
        images = images.contiguous(memory_format=kind.memory_format)
        targets = [example[1].to(device) for example in examples]
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bfloat):
            logits = network(images)
            losses = [
                kind.loss(logits[k : k + 1], targets[k], example[2].to(device), recipe.rarity)
                for k, example in enumerate(examples)
            ]
            total = torch.stack(losses).mean()
            if old:
                silent = torch.stack([
                    torch.ones_like(target, dtype=torch.bool) if example[3] else target == kind.silent
                    for target, example in zip(targets, examples, strict=True)
                ])  # fmt: skip
                total = total + recipe.memory.lwf * old.loss(images, logits, silent)
        if elastic:
            total = total + recipe.memory.ewc * elastic.penalty(network)
        return total

    return loss_of


def predictor(network: nn.Module, kind: Kind, device: str, bfloat: bool) -> Predictor:
    """A network in training as a function of arrays."""

    def predict(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bfloat):
            images = torch.from_numpy(batch).to(device).contiguous(memory_format=kind.memory_format)
            return network(images).float().cpu().numpy()

    return predict


class Watcher:
    """Measures the averaged model now and then, keeps the best, and says when it is time to stop.

    Its memory lies in the trainer's checkpoint, which is written after each measurement: a killed training finds
    history and best weights as they were.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: Plan,
        limit_s: float,
        kind: Kind,
        training: list[Taught],
        validation: list[Taught],
        report: Callable[[dict], None],
    ):
        self.trainer, self.plan, self.report = trainer, plan, report
        self._limit_s = trainer.seconds + limit_s  # of training time, over all resumes
        self._kind = kind
        self._training, self._validation = training, validation
        self._losses: list[float] = []
        self._reported = time.monotonic()
        trainer.notes.setdefault("history", [])
        trainer.notes.setdefault("best", 0)
        self.reason = ""

    @property
    def history(self) -> list[dict]:
        """One entry a measurement: step, loss, seconds, Dice of validation and training, by organ."""
        return self.trainer.notes["history"]

    @property
    def best(self) -> dict:
        """The entry of the best measurement."""
        return next(entry for entry in self.history if entry["step"] == self.trainer.notes["best"])

    def weights_path(self, step: int) -> Path:
        """Where the averaged weights of a measurement lie, if it is the best one."""
        return self.trainer.folder / f"best_{step}.pt"

    def start(self) -> None:
        """Measure the untouched model: the line that the curves are compared with, and the first best."""
        if not self.history:
            self._measure(None)

    def after_step(self, loss: float) -> bool:
        """Called after each step; True ends the training."""
        self._losses.append(loss)
        step, trainer = self.trainer.step, self.trainer
        if time.monotonic() - self._reported > 0.5:
            self._reported = time.monotonic()
            self.report({"event": "metric", "name": "loss", "step": step, "value": round(loss, 4)})
            self.report(self._progress())
        request = requested(trainer.folder)
        if step % self.plan.check_every == 0 or step == trainer.schedule.steps or request == "stop":
            self._measure(float(np.mean(self._losses)))
            self._losses = []
        if request == "pause":
            trainer.save()
        self.reason = self._why_stop(request)
        return bool(self.reason)

    def _progress(self) -> dict:
        trainer, plan = self.trainer, self.plan
        left = min(trainer.seconds / trainer.step * (plan.steps - trainer.step), self._limit_s - trainer.seconds)
        fraction = max(trainer.step / plan.steps, trainer.seconds / self._limit_s)
        return {"event": "progress", "fraction": round(min(fraction, 1.0), 4), "done": trainer.step,
                "total": plan.steps, "unit": "steps", "remaining_s": round(max(left, 0), 1)}  # fmt: skip

    def _why_stop(self, request: str) -> str:
        if request in ("pause", "stop"):
            return request
        if self.trainer.seconds > self._limit_s:
            return "time"
        since = [entry for entry in self.history if entry["step"] > self.trainer.notes["best"]]
        late = self.trainer.step > PATIENCE_AFTER * self.plan.steps
        if late and self.history[-1]["step"] == self.trainer.step and len(since) >= self.plan.recipe.patience:
            return "memorising" if self.history[-1]["gap"] > self.plan.recipe.gap else "no gain"
        return ""

    def _measure(self, loss: float | None) -> None:
        trainer = self.trainer
        network = copy.deepcopy(trainer.network)
        network.load_state_dict(trainer.averaged)
        predict = predictor(network.eval(), self._kind, self.plan.device, self.plan.precision == "bfloat16")
        validation = measure(self._kind, self._validation, predict)
        training = measure(self._kind, self._training, predict)
        dice, taught = mean_dice(validation), mean_dice(training)
        entry = {"step": trainer.step, "loss": loss, "seconds": round(trainer.seconds, 1), "dice": _plain(dice),
                 "training_dice": _plain(taught), "gap": _plain(taught - dice),
                 "organs": _organs(validation)}  # fmt: skip
        self.history.append(entry)
        self.report({"event": "metric", "name": "dice"} | entry)
        if trainer.step == 0 or dice > self.best["dice"] + LEAST_GAIN:
            save_weights(trainer.averaged, self.weights_path(trainer.step))
            trainer.notes["best"] = trainer.step
        trainer.save()
        for path in trainer.folder.glob("best_*.pt"):
            if path != self.weights_path(trainer.notes["best"]):
                path.unlink(missing_ok=True)


def _plain(value: float) -> float:
    return round(float(np.nan_to_num(value)), 4)


def _organs(results: list[OrganDice]) -> dict[str, float]:
    names = dict.fromkeys(r.structure for r in results if r.dice is not None)
    return {name: _plain(mean_dice([r for r in results if r.structure == name])) for name in names}


def save_weights(weights: dict, path: Path) -> None:
    """Write weights complete or not at all."""
    with whole(path) as partial:
        torch.save(weights, partial)


def requested(folder: Path) -> str:
    """What the person asks of a running training: "pause", "stop", or "" (see ``ask``)."""
    with contextlib.suppress(OSError):
        return (folder / "request").read_text(encoding="utf-8").strip()
    return ""


def schedule_of(plan: Plan) -> Schedule:
    """The loop's schedule; checkpoints twice a minute at least."""
    return Schedule(steps=plan.steps, learning_rate=plan.recipe.learning_rate, weight_decay=0.0, warmup=0.1,
                    clip=12.0, average=0.98, seed=plan.seed, checkpoint_s=30.0, threads=plan.threads)  # fmt: skip
