"""Building and training a score network from a configuration; used by `bpr train score` and by the scoring study."""

from __future__ import annotations

from pathlib import Path

import torch

from bpr.scoring.efficientnet_lite import load_imagenet
from bpr.scoring.network import ScoreNetwork
from bpr.scoring.scale import BINS
from bpr.scoring.slices import INPUT_PIXELS
from bpr.training.loop import Schedule, Trainer
from bpr.training.objectives import OBJECTIVES
from bpr.training.score_slices import SliceSampler, TrainingScan


def network_definition(config: dict, votes: int) -> dict:
    """Arguments of ScoreNetwork; self-supervised objectives have one output and no votes."""
    labeled = config.get("objective", "few_label") == "few_label"
    return {"backbone": config["backbone"], "bins": BINS if labeled else 1, "votes": votes if labeled else 0,
            "dropout": config["dropout"], "options": config.get("options") or {}}  # fmt: skip


def train_score_network(config: dict, scans: dict[str, TrainingScan], folder: Path, resume: bool) -> ScoreNetwork:
    """Train to the end of the schedule; with ``resume`` continue from ``folder``'s checkpoint."""
    schedule = Schedule(**config["schedule"])
    torch.manual_seed(schedule.seed)
    votes = next(iter(scans.values())).above.shape[1]
    network = ScoreNetwork(**network_definition(config, votes))
    if config.get("imagenet"):
        load_imagenet(network.backbone)
    network = network.to(memory_format=torch.channels_last)
    head = list(network.output.parameters())
    rest = [p for p in network.backbone.parameters() if p.requires_grad]
    groups = [{"params": rest}, {"params": head, "scale": config["head_scale"]}]
    trainer = Trainer(network, groups, schedule, folder)
    if resume and trainer.resume():
        print(f"resuming at step {trainer.step}")
    sampler = SliceSampler(scans, config["groups"], config["per_group"], config["head_and_neck"])
    objective = OBJECTIVES[config.get("objective", "few_label")]
    trainer.run(objective(sampler, config.get("pixels", INPUT_PIXELS)))
    return network
