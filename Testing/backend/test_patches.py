"""Patches: rare structures are met as often as common ones, the body's axes turn with the mirror, edges are unknown."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from bpr.segmentation.grid import AXIS_MM, GRID_MM, INPUTS, body_center, network_channels  # noqa: E402
from bpr.segmentation.labels import structure_by_id  # noqa: E402
from bpr.segmentation.network import build_network  # noqa: E402
from bpr.training.cases import HIDDEN_MM, OUTSIDE, LabeledCase, _hide_beyond  # noqa: E402
from bpr.training.commands import start_from  # noqa: E402
from bpr.training.patches import PatchSampler  # noqa: E402
from bpr.training.supervision import DeepSupervision  # noqa: E402

LIVER, TRACHEA = (structure_by_id(name).value for name in ("liver", "trachea"))
PATCH = (16, 32, 32)


def case_with(name: str, *values: int, step_mm: float = GRID_MM) -> LabeledCase:
    """A case of air with a cube of each value, the body's middle at the cube's right edge."""
    hu, labels = np.full((24, 40, 40), -1000, np.int16), np.zeros((24, 40, 40), np.uint8)
    hu[:, 10:30, 10:30] = 50
    for k, value in enumerate(values):
        labels[6 + 6 * k : 10 + 6 * k, 15:25, 15:25] = value
    known = np.ones(29, bool)
    voxels = {value: np.flatnonzero(labels == value) for value in values}
    return LabeledCase(name, hu, labels, known, np.zeros(24), voxels, step_mm)


def test_a_structure_of_one_case_in_ten_is_drawn_as_often_as_one_of_all():
    cases = [case_with(f"common{k}", LIVER) for k in range(9)] + [case_with("rare", TRACHEA)]
    sampler = PatchSampler(cases, [TRACHEA, LIVER], PATCH)
    rng = np.random.default_rng(0)
    drawn = [sampler._place(rng)[0] for _ in range(400)]
    assert 0.35 < np.mean(np.array(drawn) == 9) < 0.55  # the case-first choice would give 0.1


def test_patches_have_the_networks_spacing_whatever_the_case_has():
    """A cube of 40 mm has the same size in a patch from voxels of 4 mm and of 2 mm."""
    sizes = []
    for step in (4.0, 2.0):
        side = round(40 / step)
        case = case_with("made", LIVER, step_mm=step)
        case.labels[:] = 0
        case.labels[4 : 4 + side, 10 : 10 + side, 10 : 10 + side] = LIVER
        case.voxels[LIVER] = np.flatnonzero(case.labels == LIVER)
        sampler = PatchSampler([case], [LIVER], (32, 32, 32), mirror=0.0)
        rng = np.random.default_rng(1)
        sizes.append(np.median([(sampler.draw(rng)[1] == 1).sum() for _ in range(40)]))
    assert sizes[0] > 500 and sizes[1] == pytest.approx(sizes[0], rel=0.25)


def test_the_axes_say_where_the_body_lies():
    hu = np.full((4, 20, 30), -1000, np.int16)
    hu[:, 5:15, 12:22] = 40
    assert body_center(hu) == pytest.approx([9.5, 16.5])
    channels = network_channels(hu, INPUTS)
    assert channels.shape == (4, 4, 20, 30) and channels.dtype == np.float32
    across, front = channels[2], channels[3]
    assert across[0, 0, 20] == pytest.approx(3.5 * GRID_MM / AXIS_MM) and (across[:, :, 10] < 0).all()
    assert front[0, 12, 0] == pytest.approx(2.5 * GRID_MM / AXIS_MM)
    part = network_channels(hu[:, :, 15:], INPUTS, np.array([9.5, 1.5]))
    np.testing.assert_allclose(part, channels[:, :, :, 15:], atol=1e-6)


def test_a_mirrored_patch_has_mirrored_axes():
    """What lies at the patient's left is at the left of the axes too, mirrored or not."""
    case = case_with("made", LIVER)
    for mirror in (0.0, 1.0):
        sampler = PatchSampler([case], [LIVER], PATCH, mirror=mirror, inputs=INPUTS)
        image, _, _ = sampler.draw(np.random.default_rng(5))
        body, across = image[0, 0] > -1, image[0, 2]
        assert float(across[body].mean()) == pytest.approx(0, abs=0.35) and across[0, 0, -1] > across[0, 0, 0]


def test_beyond_its_contours_the_course_of_a_long_structure_is_unknown():
    labels = np.zeros((10, 30, 30), np.uint8)
    labels[3:6, 14:16, 14:16] = 24
    labels[8, 0, 0] = 7
    _hide_beyond(labels, 24)
    assert labels[8, 15, 15] == OUTSIDE and labels[0, 15, 15] == OUTSIDE
    assert labels[4, 10, 10] == 0 and labels[8, 0, 0] == 7 and labels[8, 29, 29] == 0
    assert (labels[9] == OUTSIDE).sum() == pytest.approx(np.pi * (HIDDEN_MM / 3) ** 2, rel=0.1)


def test_a_regions_network_takes_over_what_the_baseline_knows():
    filters = [8, 8, 8, 8, 8]
    torch.manual_seed(0)
    baseline, local = build_network(4, filters), build_network(3, filters)
    before = local.state_dict()["output_block.conv.conv.weight"].clone()
    start_from(local, baseline.state_dict(), [5, 28], [1, 5, 7])
    own, theirs = local.state_dict(), baseline.state_dict()
    name = "output_block.conv.conv.weight"
    assert torch.equal(own[name][:2], theirs[name][[0, 2]]) and torch.equal(own[name][2], before[2])
    assert torch.equal(own["input_block.conv1.conv.weight"], theirs["input_block.conv1.conv.weight"])


def test_deep_supervision_trains_the_network_that_stays():
    """The first output is the plain network's own, the second has half its resolution, norms agree with torch's."""
    torch.manual_seed(0)
    network = build_network(3, [8, 8, 8, 8, 8])
    image = torch.randn(1, 2, 16, 32, 32)
    plain = network.eval()(image)
    high, low = DeepSupervision(network, 3)(image)
    torch.testing.assert_close(high, plain, rtol=1e-4, atol=1e-4)
    assert low.shape == (1, 3, 8, 16, 16)
    low.sum().backward()
    assert network.bottleneck.conv1.conv.weight.grad.abs().sum() > 0
