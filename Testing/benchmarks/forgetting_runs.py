"""One sequence of domains for the study of forgetting: a network, a strategy, an order."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from hippocampus import PARTS, TILE, Crop, Domain
from torch import nn
from warps import bent

from bpr.seed.learn import rate_groups
from bpr.seed.memory import PRESETS, ElasticWeights, Memory, OldModel, blend
from bpr.segmentation.candidates import build_candidate
from bpr.training.loop import Schedule, Trainer
from bpr.training.segmentation import marginal_loss
from bpr.training.supervision import has_fast_bfloat16

FORGOTTEN = 0.01  # Dice of an earlier domain's validation people, as in bpr.seed.compare
RATE, LATER_RATE = 2e-3, 1e-3
FISHER_PATCHES = 16
KNOWN = torch.ones(PARTS + 1, dtype=torch.bool)
Scores = dict[str, dict[str, float]]  # domain -> person -> Dice


@dataclass(frozen=True)
class Strategy:
    """What is done against forgetting.

    Attributes:
        blends: shares of the new weights that are tried until no earlier domain has lost more than FORGOTTEN.
        encoder: factor on its rate after the first domain; 0 freezes it.
        own_norms: after the first domain only the norms learn, and every domain keeps its own.
        joint: all domains at once, the upper bound.
    """

    name: str
    memory: Memory = PRESETS["none"]
    blends: tuple[float, ...] = (1.0,)
    encoder: float = 1.0
    own_norms: bool = False
    joint: bool = False


NAIVE, JOINT = Strategy("naive"), Strategy("joint", joint=True)
DEFAULT = Strategy("default", PRESETS["default"], (1.0, 0.75, 0.5))
OTHERS = (Strategy("replay", PRESETS["replay"]), Strategy("LwF", PRESETS["lwf"]), Strategy("EWC", PRESETS["ewc"]),
          Strategy("frozen encoder", encoder=0.0), Strategy("norms of its own", own_norms=True))  # fmt: skip


class Learner:
    """A network that goes through domains one after the other."""

    def __init__(self, network: str, strategy: Strategy, steps: tuple[int, int], seed: int):
        torch.manual_seed(seed)
        self.network = build_candidate(network, PARTS + 1, 1, TILE).to(memory_format=torch.channels_last_3d)
        self.strategy, self.steps, self.seed = strategy, steps, seed
        self.earlier: list[Domain] = []
        self.norms: dict[str, dict[str, torch.Tensor]] = {}  # of each domain, where it has its own
        self.bfloat = has_fast_bfloat16("cpu")

    def learn(self, domains: list[Domain]) -> None:
        """Train on the next domain (or several at once), with what the strategy does against forgetting."""
        later, strategy = bool(self.earlier), self.strategy
        old = copy.deepcopy(self.network.state_dict())
        loss_of = self._loss([crop for domain in domains for crop in domain.teaching])
        length = self.steps[later] if not strategy.joint else self.steps[0] + (len(domains) - 1) * self.steps[1]
        schedule = Schedule(steps=length, learning_rate=LATER_RATE if later else RATE, warmup=0.15, average=0.97,
                            clip=12.0, seed=self.seed + len(self.earlier), checkpoint_s=1e9, threads=1)  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            Trainer(self.network, self._groups(later), schedule, Path(folder)).run(loss_of, report_every=10**9)
        if later and len(strategy.blends) > 1:
            self._blend(old)
        for domain in domains:
            self.earlier.append(domain)
            if strategy.own_norms:
                self.norms[domain.name] = self._norms()

    def _groups(self, later: bool) -> list[dict]:
        if later and self.strategy.own_norms:
            names = set(self._norms())
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(name in names)
            return [{"params": [p for p in self.network.parameters() if p.requires_grad]}]
        return rate_groups(self.network, self.strategy.encoder if later else 1.0)

    def _norms(self) -> dict[str, torch.Tensor]:
        """The weights of the network's norms."""
        modules = {name for name, module in self.network.named_modules() if isinstance(module, nn.InstanceNorm3d)}
        state = self.network.state_dict().items()
        return {name: tensor.clone() for name, tensor in state if name.rpartition(".")[0] in modules}

    def _loss(self, crops: list[Crop]):
        memory = self.strategy.memory if self.earlier else PRESETS["none"]
        remembered = [crop for domain in self.earlier for crop in domain.teaching]
        old = OldModel(self.network) if memory.lwf else None
        elastic = None
        if memory.ewc:
            rng = np.random.default_rng(self.seed)
            patches = (draw(remembered, rng)[0] for _ in range(FISHER_PATCHES))
            elastic = ElasticWeights(self.network, patches)

        def loss_of(network: nn.Module, rng: np.random.Generator) -> torch.Tensor:
            replayed = [bool(rng.random() < memory.replay) for _ in range(2)]
            pairs = [draw(remembered if again else crops, rng) for again in replayed]
            images = torch.cat([image for image, _ in pairs]).contiguous(memory_format=torch.channels_last_3d)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat):
                logits = network(images)
                total = sum(marginal_loss(logits[k : k + 1], pairs[k][1], KNOWN, 0.5) for k in range(2)) / 2
                if old:  # without replay the new images must do, as in the paper
                    silent = torch.tensor(replayed if memory.replay else [True, True])
                    silent = silent[:, None, None, None].expand(2, *TILE)
                    total = total + memory.lwf * old.loss(images, logits, silent)
            return total + memory.ewc * elastic.penalty(network) if elastic else total

        return loss_of

    def _blend(self, old: dict[str, torch.Tensor]) -> None:
        """The largest share of the new weights with which no earlier domain has lost too much, else all of them."""
        new = copy.deepcopy(self.network.state_dict())
        self.network.load_state_dict(old)
        before = [self._dice(domain.validation) for domain in self.earlier]
        for share in self.strategy.blends:
            self.network.load_state_dict(blend(old, new, share))
            after = [self._dice(domain.validation) for domain in self.earlier]
            lost = [np.mean(list(b.values())) - np.mean(list(a.values())) for b, a in zip(before, after, strict=True)]
            if max(lost) <= FORGOTTEN:
                return
        self.network.load_state_dict(new)

    def scores(self, domains: dict[str, Domain]) -> Scores:
        """Dice of every domain's test people; own norms are put in for domains that have been learned."""
        found, now = {}, self._norms() if self.norms else {}
        for name, domain in domains.items():
            self.network.load_state_dict(self.norms.get(name, now), strict=False)
            found[name] = self._dice(domain.test)
        self.network.load_state_dict(now, strict=False)
        return found

    def _dice(self, crops: list[Crop]) -> dict[str, float]:
        """Person to the mean Dice of both parts."""
        self.network.eval()
        found = {}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat):
            for k in range(0, len(crops), 8):
                images = torch.from_numpy(np.stack([crop.image for crop in crops[k : k + 8]]))[:, None]
                guesses = self.network(images.contiguous(memory_format=torch.channels_last_3d)).argmax(1).numpy()
                for crop, guess in zip(crops[k : k + 8], guesses, strict=True):
                    found[crop.id] = float(np.mean([_overlap(guess == v, crop.labels == v) for v in (1, 2)]))
        return found


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / max(a.sum() + b.sum(), 1)


def draw(crops: list[Crop], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """An augmented crop: (1, 1, z, y, x) float32, (z, y, x) labels."""
    crop = crops[rng.integers(len(crops))]
    grid = bent(rng, TILE, 2.0, 0.08)
    image = F.grid_sample(torch.from_numpy(crop.image)[None, None], grid, align_corners=False)
    labels = F.grid_sample(torch.from_numpy(crop.labels)[None, None].float(), grid, "nearest", "zeros", False)
    image = image * float(rng.uniform(0.8, 1.25)) + float(rng.normal(0, 0.15))
    noise = rng.standard_normal(TILE, np.float32) * np.float32(rng.uniform(0, 0.2))
    return image + torch.from_numpy(noise)[None, None], labels[0, 0].to(torch.uint8)


def sequence(network: str, strategy: Strategy, order: list[str], domains: dict[str, Domain], steps: tuple[int, int],
             seed: int) -> list[Scores]:  # fmt: skip
    """Scores of all domains before the first and after each stage; joint training has one stage."""
    learner = Learner(network, strategy, steps, seed)
    found = [learner.scores(domains)]
    for stage in [order] if strategy.joint else [[name] for name in order]:
        learner.learn([domains[name] for name in stage])
        found.append(learner.scores(domains))
    return found
