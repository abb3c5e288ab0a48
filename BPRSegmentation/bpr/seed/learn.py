"""The learning itself: patches of new and remembered cases, the loss, layer-wise rates, and who watches over it."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bpr.seed.augment import random_scanner
from bpr.seed.cases import TeachingCase
from bpr.seed.measure import OrganDice, mean_dice, measure
from bpr.seed.memory import ElasticWeights, OldModel
from bpr.seed.plan import Plan, Recipe
from bpr.segmentation.interface import Interface
from bpr.segmentation.windows import Predictor
from bpr.training.cases import OUTSIDE
from bpr.training.loop import Schedule, Trainer
from bpr.training.patches import PatchSampler
from bpr.training.segmentation import marginal_loss

ENCODER = ("input_block.", "downsamples.", "bottleneck.")  # MONAI's names in a DynUNet
LEAST_GAIN = 0.001  # of validation Dice that counts as better
PATIENCE_AFTER = 0.4  # of the planned steps; before, the rate has hardly begun to fall


class PatchMix:
    """Draws patches of the new cases and, in the share that the recipe says, of the remembered ones.

    ``together`` are cases of other projects that are learned with the new ones: each of their domains is met as often
    as all new cases, however many it has.
    """

    def __init__(self, new: list[TeachingCase], remembered: list[TeachingCase], network: Interface, share: float,
                 together: Sequence[TeachingCase] = ()):  # fmt: skip
        domains = sorted({case.domain for case in together})
        groups = [new, *([case for case in together if case.domain == domain] for domain in domains)]
        self._taught = [_sampler(group, network) for group in groups]
        self._remembered = _sampler(remembered, network) if remembered else None
        self._share = share if remembered else 0.0

    def draw(self, rng: np.random.Generator):
        """Image (1, 2, z, y, x), target (z, y, x), known (channels,) as PatchSampler, and whether it is remembered."""
        remembered = rng.random() < self._share
        taught = self._taught[rng.integers(len(self._taught)) if len(self._taught) > 1 else 0]
        image, target, known = (self._remembered if remembered else taught).draw(rng)
        return image, target, known, remembered


def _sampler(cases: list[TeachingCase], network: Interface) -> PatchSampler:
    parts = [part for case in cases for part in case.parts]
    classes = network.classes
    sampler = PatchSampler(parts, classes, network.tile, intensity=random_scanner, inputs=network.inputs)
    # Also parts that only say what is absent are drawn, and a part with one organ more often than a tenth of all.
    weight = np.array([1 + sum(value in part.voxels for value in classes) for part in parts], float) ** 0.5
    sampler.weight = weight / weight.sum()
    return sampler


def rate_groups(network: nn.Module, encoder_scale: float) -> list[dict]:
    """Optimizer groups: the encoder slower (0: frozen), everything else at full rate."""
    encoder, rest = [], []
    for name, parameter in network.named_parameters():
        (encoder if name.startswith(ENCODER) else rest).append(parameter)
    if encoder_scale == 0:
        for parameter in encoder:
            parameter.requires_grad_(False)
        return [{"params": rest}]
    return [{"params": encoder, "scale": encoder_scale}, {"params": rest}] if encoder else [{"params": rest}]


def seed_loss(mix: PatchMix, recipe: Recipe, old: OldModel | None, elastic: ElasticWeights | None, plan_device: str,
              bfloat: bool):  # fmt: skip
    """The function that bpr.training.loop.Trainer calls at each step."""
    kind = plan_device.partition(":")[0]

    def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        patches = [mix.draw(rng) for _ in range(recipe.batch)]
        images = torch.cat([patch[0] for patch in patches]).to(plan_device)
        images = images.contiguous(memory_format=torch.channels_last_3d)
        targets = [patch[1].to(plan_device) for patch in patches]
        with torch.autocast(kind, torch.bfloat16, enabled=bfloat):
            logits = network(images)
            losses = [
                marginal_loss(logits[k : k + 1], targets[k], patch[2].to(plan_device), recipe.rarity)
                for k, patch in enumerate(patches)
            ]
            total = torch.stack(losses).mean()
            if old:
                silent = torch.stack([
                    torch.ones_like(target, dtype=torch.bool) if patch[3] else target == OUTSIDE
                    for target, patch in zip(targets, patches, strict=True)
                ])  # fmt: skip
                total = total + recipe.memory.lwf * old.loss(images, logits, silent)
        if elastic:
            total = total + recipe.memory.ewc * elastic.penalty(network)
        return total

    return loss_of


def predictor(network: nn.Module, device: str, bfloat: bool) -> Predictor:
    """A network in training as a function of arrays."""

    def predict(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bfloat):
            images = torch.from_numpy(batch).to(device).contiguous(memory_format=torch.channels_last_3d)
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
        network: Interface,
        training: list[TeachingCase],
        validation: list[TeachingCase],
        report: Callable[[dict], None],
    ):
        self.trainer, self.plan, self.report = trainer, plan, report
        self._limit_s = trainer.seconds + limit_s  # of training time, over all resumes
        self._interface = network
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
        predict = predictor(network.eval(), self.plan.device, self.plan.precision == "bfloat16")
        validation = measure(self._validation, predict, self._interface)
        training = measure(self._training, predict, self._interface)
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
    partial = path.with_suffix(".partial")
    torch.save(weights, partial)
    os.replace(partial, path)


def requested(folder: Path) -> str:
    """What the person asks of a running training: "pause", "stop", or "" (see ``ask``)."""
    with contextlib.suppress(OSError):
        return (folder / "request").read_text(encoding="utf-8").strip()
    return ""


def schedule_of(plan: Plan) -> Schedule:
    """The loop's schedule; checkpoints twice a minute at least."""
    return Schedule(steps=plan.steps, learning_rate=plan.recipe.learning_rate, weight_decay=0.0, warmup=0.1,
                    clip=12.0, average=0.98, seed=plan.seed, checkpoint_s=30.0, threads=plan.threads)  # fmt: skip
