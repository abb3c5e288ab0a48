"""One training loop for all networks: one-cycle rate, clipped gradients, averaged weights, checkpoints, exact resume.

What a step sees depends only on (seed, step), so a run that was stopped and resumed sees the same batches. A step may
have several batches; the processes of a torchrun share them, so two learn what one learns of the same batches.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bpr.files import whole
from bpr.training import processes


@dataclass(frozen=True)
class Schedule:
    """Length and rates of a training. ``checkpoint_s`` is the time between checkpoints in seconds.

    ``batches`` of each step are drawn apart and their gradients averaged; at least one for each process.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clip: float = 5.0
    average: float = 0.99
    seed: int = 0
    checkpoint_s: float = 180.0
    threads: int = 2
    batches: int = 1


class Trainer:
    """Runs ``loss_of(network, rng)`` for ``schedule.steps`` steps, resuming from ``folder/checkpoint.pt`` when asked.

    ``loss_of`` draws its batch from the numpy generator that it is given and returns a scalar tensor.
    ``groups`` are optimizer parameter groups, each with a factor ``scale`` on the learning rate.
    """

    def __init__(self, network: nn.Module, groups: list[dict], schedule: Schedule, folder: Path):
        self.network, self.schedule, self.folder = network, schedule, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(schedule.threads)
        processes.start_alike(network)
        scales = [group.pop("scale", 1.0) for group in groups]
        self.optimizer = torch.optim.AdamW(groups, schedule.learning_rate, weight_decay=schedule.weight_decay)
        rates = [schedule.learning_rate * scale for scale in scales]
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rates, total_steps=schedule.steps + 1, pct_start=schedule.warmup
        )
        self.averaged = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        self.notes: dict = {}  # what a watcher wants to find again after a resume: plain numbers, texts and lists

    @property
    def checkpoint(self) -> Path:
        """The file that a later run resumes from."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write a checkpoint, complete or not at all; the first process does it."""
        if processes.rank():
            return
        state = {"network": self.network.state_dict(), "averaged": self.averaged, "step": self.step,
                 "optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict(),
                 "seconds": self.seconds, "notes": self.notes}  # fmt: skip
        with whole(self.checkpoint) as partial:
            torch.save(state, partial)

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one."""
        if not self.checkpoint.exists():
            return False
        device = next(self.network.parameters()).device
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.notes = state.get("notes", {})
        return True

    def run(
        self,
        loss_of: Callable[[nn.Module, np.random.Generator], torch.Tensor],
        report_every: int = 25,
        watch: Callable[[float], bool] | None = None,
    ) -> None:
        """Train to the end; afterwards the network holds the averaged weights.

        ``watch`` is called after each step with its loss and ends the training by returning True.
        """
        started, saved = time.time() - self.seconds, time.time()
        recent: list[float] = []
        self.network.train()
        while self.step < self.schedule.steps:
            this_loss = self._gradients(loss_of)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
            self.optimizer.step()
            self.scheduler.step()
            self._average()
            self.step += 1
            self.seconds = time.time() - started
            recent.append(this_loss)
            if self.step % report_every == 0 or self.step == self.schedule.steps:
                self._report(float(np.mean(recent)))
                recent = []
            if time.time() - saved > self.schedule.checkpoint_s:
                self.save()
                saved = time.time()
            if watch is not None and watch(this_loss):
                break
        self.save()
        self.network.load_state_dict(self.averaged)

    def _gradients(self, loss_of: Callable[[nn.Module, np.random.Generator], torch.Tensor]) -> float:
        """Leave the mean gradient of the step's batches in the parameters, wherever they were drawn; the mean loss."""
        batches, mean = max(self.schedule.batches, processes.count()), torch.zeros(1)
        self.optimizer.zero_grad(set_to_none=True)
        for number in range(processes.rank(), batches, processes.count()):
            rng = np.random.default_rng([self.schedule.seed, self.step] + ([number] if batches > 1 else []))
            torch.manual_seed(int(rng.integers(2**31)))
            loss = loss_of(self.network, rng) / batches
            loss.backward()
            mean += loss.item()
        self._exchange(mean)
        return mean.item()

    def _exchange(self, mean: torch.Tensor) -> None:
        """Sum gradients and ``mean`` over the processes; running statistics become the mean of all."""
        if processes.count() == 1:
            return
        learned = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        mean_there = mean.to(learned[0].device)
        buffers = [b for b in self.network.buffers() if b.dtype.is_floating_point]
        processes.sum_in_place([mean_there, *(p.grad for p in learned), *buffers])
        mean.copy_(mean_there)
        for buffer in buffers:
            buffer /= processes.count()

    def _average(self) -> None:
        """Exponential moving average with a short memory at the start."""
        keep = min(self.schedule.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                if tensor.dtype.is_floating_point:
                    self.averaged[name].lerp_(tensor, 1 - keep)
                else:
                    self.averaged[name].copy_(tensor)

    def _report(self, loss: float) -> None:
        if processes.rank():
            return
        pace = self.seconds / self.step
        left = pace * (self.schedule.steps - self.step)
        line = {"step": self.step, "loss": round(loss, 4), "s_per_step": round(pace, 3), "seconds": round(self.seconds)}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"step {self.step}/{self.schedule.steps}  loss {loss:.3f}  {pace:.2f} s/step  {left / 60:.1f} min left",
              flush=True)  # fmt: skip
