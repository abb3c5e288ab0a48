"""What the score network is taught: objectives, backbones under one interface, votes, organs that stray together."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from bpr.scoring.backbones import BACKBONES  # noqa: E402
from bpr.scoring.network import ScoreNetwork  # noqa: E402
from bpr.training.objectives import (  # noqa: E402
    BPREG_ALPHA,
    BPREG_BETA,
    equidistance_loss,
    millimeter_loss,
    order_loss,
    vote_loss,
)
from bpr.training.ruler import Observation, Ruler, organ_covariance  # noqa: E402
from bpr.training.score_slices import SliceSampler, TrainingScan, above_landmarks  # noqa: E402


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_a_distribution_and_votes(name: str):
    network = ScoreNetwork(name, bins=5, votes=3)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 8)
    assert network.backbone(torch.zeros(1, 3, 64, 64)).shape[1] == network.backbone.channels


def test_order_loss_wants_scores_that_climb():
    climbing = torch.tensor([[0.0, 2.0, 4.0, 6.0]])
    assert order_loss(climbing) < 0.2 < order_loss(climbing.flip(1))


def test_equidistance_loss_wants_equal_steps():
    assert equidistance_loss(torch.tensor([[0.0, 2.0, 4.0, 6.0]])) == 0
    assert equidistance_loss(torch.tensor([[0.0, 0.5, 4.0, 6.0]])) > 0


def test_millimeter_loss_is_least_where_scores_tell_millimeters():
    z = torch.tensor([[0.0, 40.0, 100.0, 130.0]])
    right = z * BPREG_BETA / BPREG_ALPHA
    assert millimeter_loss(right, z) < 1e-9
    assert millimeter_loss(right * 3, z) > 1e-4 and millimeter_loss(-right, z) > 1e-3


def test_votes_that_nobody_knows_teach_nothing():
    logits = torch.zeros(2, 2, requires_grad=True)
    vote_loss(logits, torch.tensor([[1.0, float("nan")], [0.0, float("nan")]])).backward()
    assert (logits.grad[:, 0] != 0).all() and (logits.grad[:, 1] == 0).all()


RULER = Ruler({"t12_l1": 400.0, "liver_bottom": 350.0}, {"t12_l1": 4.0, "liver_bottom": 30.0},
              {"t12_l1": "bone", "liver_bottom": "organ"})  # fmt: skip


def test_only_what_is_certain_is_told_about_a_landmark_that_nobody_annotated():
    z = np.arange(0, 600, 10.0)
    own = [Observation("a", "t12_l1", "bone", 300.0, 4.0)]
    above = above_landmarks(own, z, z + 100, RULER)  # columns: liver_bottom, t12_l1
    assert np.isnan(above[25, 0])  # at its mean height the liver may or may not end
    assert above[0, 0] == 0 and above[-1, 0] == 1
    assert above[29, 1] < 0.5 < above[31, 1] and not np.isnan(above[:, 1]).any()


def test_organs_that_stray_together_are_found():
    rng = np.random.default_rng(0)
    names = ("t12_l1", "l3_center", "right_dome", "spleen_top")
    place = dict(zip(names, (400.0, 324.0, 470.0, 460.0), strict=True))
    kind = dict(zip(names, ("bone", "bone", "organ", "organ"), strict=True))
    ruler = Ruler(place, dict.fromkeys(names, 20.0), kind)
    observations = []
    for scan in range(40):
        stray = rng.normal(0, 20)
        for name in names:
            off = stray if kind[name] == "organ" else 0.0
            observations.append(Observation(str(scan), name, kind[name], place[name] + off + rng.normal(0, 2), 2.0))
    organs, covariance = organ_covariance(observations, ruler)
    assert organs == ["right_dome", "spleen_top"]
    assert covariance[0, 1] / covariance[0, 0] > 0.7


def test_equidistant_slices_climb_in_equal_steps():
    n = 60
    scan = TrainingScan(torch.zeros(n, 160, 160, dtype=torch.int16), 300 + 4.0 * np.arange(n), np.ones(n),
                        np.full((n, 1), np.nan), 4.0 * np.arange(n))  # fmt: skip
    sampler = SliceSampler({"a": scan}, groups=3, per_group=8, head_and_neck=0.0)
    z = sampler.draw_equidistant(np.random.default_rng(0)).z_mm.reshape(3, 8).numpy()
    steps = np.diff(z, axis=1)
    assert (steps > 0).all() and np.ptp(steps, axis=1).max() == 0
