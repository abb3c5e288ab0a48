"""Training: partial labels teach no background, mirrored sides swap, a stopped run resumes, bundles round-trip."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from bpr.compute.engines import OpenVinoEngine, TorchEngine  # noqa: E402
from bpr.segmentation.labels import structure_by_id  # noqa: E402
from bpr.segmentation.network import build_network  # noqa: E402
from bpr.training.bundle import write_bundle  # noqa: E402
from bpr.training.cases import OUTSIDE, LabeledCase  # noqa: E402
from bpr.training.loop import Schedule, Trainer  # noqa: E402
from bpr.training.patches import PatchSampler  # noqa: E402
from bpr.training.ruler import Observation, dense_target, solve_ruler  # noqa: E402
from bpr.training.segmentation import marginal_loss  # noqa: E402


def test_an_unlabeled_organ_does_not_teach_background():
    """Predicting an organ that nobody labeled costs nothing; predicting one that is known to be absent does."""
    target = torch.zeros(4, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 4, 4, 4)
    logits[:, 2] = 8.0  # the network is sure of channel 2
    unknown = marginal_loss(logits, target, torch.tensor([True, True, False]))
    absent = marginal_loss(logits, target, torch.tensor([True, True, True]))
    assert unknown < 0.01 and absent > 5


def test_the_loss_is_cross_entropy_and_dice_where_all_is_known():
    """Against the formulas written out over a one-hot volume."""
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 4, 6, 8), torch.randint(0, 3, (4, 6, 8), dtype=torch.uint8)
    p, hot = logits.softmax(1)[0], torch.nn.functional.one_hot(target.long(), 3).permute(3, 0, 1, 2)
    entropy = -(hot * p.log()).sum() / hot.sum()
    dice = [1 - (2 * (p[k] * hot[k]).sum() + 1) / (p[k].sum() + hot[k].sum() + 1) for k in (1, 2)]
    found = marginal_loss(logits, target, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(found, entropy + sum(dice) / 2)


def test_voxels_that_nobody_looked_at_do_not_count():
    target = torch.full((4, 4, 4), OUTSIDE, dtype=torch.uint8)
    target[0] = 1
    logits = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    marginal_loss(logits, target, torch.tensor([True, True]), rarity=0.5).backward()
    assert logits.grad[:, :, 1:].abs().max() == 0 and logits.grad[:, :, 0].abs().max() > 0


def test_mirroring_swaps_the_sides():
    left, right = structure_by_id("kidney_left").value, structure_by_id("kidney_right").value
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[:, :, 20:] = left  # columns grow towards the patient's left
    known = np.ones(23, bool)
    case = LabeledCase("made", np.zeros((32, 32, 32), np.int16), labels, known, np.zeros(32), {left: np.array([100])})
    sampler = PatchSampler([case], [left, right], (32, 32, 32), mirror=1.0)
    _, target, _ = sampler.draw(np.random.default_rng(0))
    assert set(np.unique(target)) <= {0, 2, OUTSIDE} and (target[:, :, :8] == 2).any()


def test_a_stopped_training_resumes_exactly(tmp_path):
    def train(folder, stop_at=None):
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 1)
        schedule = Schedule(steps=30, learning_rate=0.01, checkpoint_s=0, threads=1)
        trainer = Trainer(network, [{"params": list(network.parameters())}], schedule, folder)
        trainer.resume()

        def loss_of(net, rng):
            if stop_at is not None and trainer.step == stop_at:
                raise KeyboardInterrupt
            x = torch.from_numpy(rng.normal(size=(8, 4))).float()
            return ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()

        trainer.run(loss_of, report_every=100)
        return network.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=17)
    resumed = train(tmp_path / "cut")
    for name in whole:
        torch.testing.assert_close(whole[name], resumed[name], rtol=0, atol=0)


def test_the_ruler_is_found_from_scans_that_share_landmarks():
    truth = {"t12_l1": 400.0, "l3_center": 324.0, "carina": 571.0, "c7_t1": 660.0}
    kind = {"t12_l1": "bone", "l3_center": "bone", "carina": "airway_vessel", "c7_t1": "bone"}
    seen = {"a": ("t12_l1", "l3_center"), "b": ("t12_l1", "carina"), "c": ("carina", "c7_t1"), "d": tuple(truth)}
    observations = [
        Observation(scan, name, kind[name], truth[name] - 100 * k, 2.0)
        for k, (scan, names) in enumerate(seen.items())
        for name in names
    ]
    ruler = solve_ruler(observations)
    for name, position in truth.items():
        assert ruler.position[name] == pytest.approx(position, abs=3)
    mean, sd = dense_target([o for o in observations if o.scan == "d"], np.array([100.0, 360.0]), ruler)
    assert mean == pytest.approx([400, 660], abs=4) and (sd < 10).all()


def test_a_bundle_gives_the_same_labels_in_both_engines(tmp_path):
    torch.manual_seed(0)
    filters = [8, 8, 8, 8, 8]
    network = build_network(4, filters)
    metadata = {"version": "0", "bpr": {"role": "baseline", "use": "open"}}
    definition = {"_target_": "DynUNet", "classes": 4, "filters": filters}
    bundle = write_bundle(tmp_path / "made", network, definition, torch.zeros(1, 2, 16, 32, 32), metadata, "card")
    image = np.random.default_rng(0).normal(size=(1, 2, 16, 32, 32)).astype(np.float32)
    a, b = OpenVinoEngine().predictor(bundle)(image), TorchEngine("cpu").predictor(bundle)(image)
    assert (a.argmax(1) == b.argmax(1)).mean() >= 0.999
    stored = sum(file.stat().st_size for file in (tmp_path / "made" / "models").iterdir())
    unique = {p.data_ptr(): p.numel() for p in network.parameters()}
    assert stored < 2 * sum(unique.values()) + 60_000  # half precision, every weight once, and a small graph


def _in_both_engines(bundle, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return OpenVinoEngine().predictor(bundle)(image), TorchEngine("cpu").predictor(bundle)(image)


def test_shipped_bundles_agree_between_engines(sample_ct):
    """>= 99.9 % of voxels, on a CT-like input, for every bundle that segments volumes."""
    import SimpleITK as sitk

    from bpr.models import list_bundles
    from bpr.segmentation.grid import GRID_MM, network_channels
    from bpr.volume import canonical, read_volume

    hu = sitk.GetArrayFromImage(canonical(read_volume(sample_ct).image, (GRID_MM,) * 3))
    for bundle in list_bundles():
        if bundle.role not in ("region", "baseline"):
            continue
        tile = bundle.facts["tile"]
        start = [(n - t) // 2 for n, t in zip(hu.shape, tile, strict=True)]
        part = hu[tuple(slice(max(a, 0), max(a, 0) + t) for a, t in zip(start, tile, strict=True))]
        pad = [(0, t - n) for n, t in zip(part.shape, tile, strict=True)]
        image = network_channels(np.pad(part, pad, constant_values=-1024), bundle.inputs)[None]
        a, b = _in_both_engines(bundle, image)
        assert (a.argmax(1) == b.argmax(1)).mean() >= 0.999, bundle.name


def test_compartments_of_a_slice_agree_between_engines(sample_ct):
    """>= 99.9 % of pixels, on every tenth slice of the sample."""
    from bpr.body_composition.job import ROLE, composition_bundles
    from bpr.body_composition.slices import axial_slice, body_of, network_grid, onto_grid
    from bpr.body_composition.tissues import network_channels
    from bpr.volume import read_volume, slice_heights

    image = read_volume(sample_ct).image
    slices = [axial_slice(image, k, 0.0) for k in range(5, len(slice_heights(image)), 10)]
    grids = [onto_grid(one.hu, network_grid(body_of(one.hu, one.spacing[1]), one.spacing), 1, -1024) for one in slices]
    bundle = composition_bundles([])[ROLE]
    pairs = [_in_both_engines(bundle, network_channels(grid)[None]) for grid in grids]
    assert np.mean([a.argmax(1) == b.argmax(1) for a, b in pairs]) >= 0.999


def test_counted_vertebrae_agree_between_engines(sample_ct):
    """The same likeliest place in >= 99.9 % of rows, and the same L3, wherever it is looked for."""
    from bpr.body_composition.counting import PLACES, count_vertebrae, rows_around
    from bpr.body_composition.job import VERTEBRAE, composition_bundles
    from bpr.body_composition.spine import spine_pictures
    from bpr.volume import read_volume

    pictures, bundle = spine_pictures(read_volume(sample_ct).image), composition_bundles([])[VERTEBRAE]
    engines = OpenVinoEngine().predictor(bundle), TorchEngine("cpu").predictor(bundle)
    same = []
    for guess in np.linspace(pictures.z_mm[0] - 60, pictures.z_mm[-1], 6):
        window, _, inside = rows_around(pictures, guess)
        a, b = (PLACES[predict(window[None])[0].argmax(0)][inside] for predict in engines)
        same += (a == b).tolist()
        ours, theirs = (count_vertebrae(pictures, guess, predict) for predict in engines)
        assert ours.l3_mm == pytest.approx(theirs.l3_mm, abs=0.1)
    assert len(same) > 100 and np.mean(same) >= 0.999
