"""The last step against forgetting: of the models between the old and the trained one, the farthest that did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bpr.compute.engines import open_engine
from bpr.compute.torch_networks import load_network
from bpr.models import Bundle
from bpr.seed.compare import Comparison, compare
from bpr.seed.material import Material
from bpr.seed.measure import OrganDice
from bpr.seed.memory import blend
from bpr.seed.plan import Plan
from bpr.seed.publish import write_seed_bundle


@dataclass(frozen=True)
class Candidate:
    """A model that was written and measured: share of the trained weights, Dice, what it means."""

    share: float
    bundle: Bundle
    after: list[OrganDice]
    comparison: Comparison


class Maker:
    """Writes the bundle for a share of the trained weights and measures it as it will run."""

    def __init__(
        self, folder: Path, network: nn.Module, plan: Plan, material: Material, step: int, before: list[OrganDice]
    ):
        self.folder, self.plan, self.material, self.step, self.before = folder, plan, material, step, before
        self._network = network.cpu()
        self._old = load_network(material.bundle).state_dict()
        self._new = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def write(self, share: float) -> Bundle:
        """The bundle alone; it replaces the one that was written before."""
        mixed: dict[str, torch.Tensor] = blend(self._old, self._new, share)
        self._network.load_state_dict(mixed)
        return write_seed_bundle(self.folder, self._network, self.material, self.plan, self.step)

    def measured(self, share: float, bundle: Bundle, measure: Callable) -> Candidate:
        """Compare the written bundle with the old model."""
        after = measure(self.material, open_engine(device="cpu").predictor(bundle))
        remembered = {case.domain for case in self.material.remembered}
        return Candidate(share, bundle, after, compare(self.before, after, remembered, self.material.held_out))


def best_blend(maker: Maker, stage: Callable[[str], None], measure: Callable, in_time: Callable[[], bool]) -> Candidate:
    """Try the recipe's shares in turn; when every one has forgotten, the fully trained model stays, and says so.

    Args:
        stage: called with "writing" and "after". measure: (material, predictor) to Dice. in_time: whether there is time
            for another candidate.
    """
    first: Candidate | None = None
    for share in maker.plan.recipe.blends:
        if first and not in_time():
            break
        stage("writing")
        bundle = maker.write(share)
        stage("after")
        found = maker.measured(share, bundle, measure)
        if not found.comparison.forgot:
            return found
        first = first or found
    if found is not first:
        stage("writing")
        maker.write(first.share)
    return first
