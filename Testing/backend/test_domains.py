"""One network for several domains: branches, sampling, contrast, the nearest domain, folds, agreement of masks."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from domain_samples import toy_cases, toy_domain, toy_labels  # noqa: E402

from bpr.domains.contrast import Contrast, contrastive_loss, depth_channels  # noqa: E402
from bpr.domains.definition import Domain, percentile, read_domain, standard  # noqa: E402
from bpr.domains.learning import (  # noqa: E402
    Learner,
    Recipe,
    Step,
    case_predictor,
    domain_loss,
    folds_of,
    learn,
    learn_folds,
    mean_dice,
)
from bpr.domains.nearest import FeatureStatistics, nearest, nearest_notice  # noqa: E402
from bpr.domains.network import DomainNorm, DomainUNet  # noqa: E402
from bpr.domains.sampling import Augmentation, DomainSampler  # noqa: E402
from bpr.errors import InputError  # noqa: E402
from bpr.evaluation.agreement import agreement, dice_by_channel  # noqa: E402
from bpr.training.cases import OUTSIDE  # noqa: E402
from bpr.training.segmentation import marginal_loss  # noqa: E402

FILTERS, PATCH = [4, 4, 4, 4, 4], (16, 16, 32)  # the deepest level keeps two voxels, which norms need


@pytest.fixture
def two() -> DomainSampler:
    """A large smooth domain and a small grainy one."""
    domains = [toy_domain("smooth"), toy_domain("grainy", prefix="other")]
    cases = [toy_cases(domains[0], "smooth", 9), toy_cases(domains[1], "grainy", 3)]
    return DomainSampler(domains, cases, PATCH, Augmentation.of("strong"))


@pytest.mark.parametrize("own", [True, False])
def test_a_branch_answers_as_the_shared_network_does(own: bool):
    torch.manual_seed(0)
    network = DomainUNet([2, 3], FILTERS, 1, own_norms=own, own_heads=own).eval()
    for module in network.modules():
        if isinstance(module, DomainNorm):
            torch.nn.init.normal_(module.weight)
    image = torch.randn(2, 1, 16, 32, 16)
    with torch.no_grad():
        for domain, classes in enumerate((3, 4)):
            answer = network(image, domain).logits
            assert answer.shape == (2, classes, 16, 32, 16)
            torch.testing.assert_close(network.branch(domain)(image), answer, rtol=1e-3, atol=1e-4)
    shared = network.branch(0).state_dict()["input_block.norm1.weight"]
    assert torch.equal(shared, network.branch(1).state_dict()["input_block.norm1.weight"]) is not own


def test_a_domain_s_layers_learn_from_its_own_batches_only(two):
    network = DomainUNet([2, 2], FILTERS, 1)
    recipe = Recipe(steps=1, batch=2, groups=1)
    two.share = np.array([0.0, 1.0])
    domain_loss(Learner(network), two, recipe)(None, np.random.default_rng(0)).backward()
    assert network.heads[0].weight.grad is None and network.heads[1].weight.grad.abs().sum() > 0
    norm = network.network.input_block.norm1.weight.grad
    assert norm[0].abs().sum() == 0 and norm[1].abs().sum() > 0


def test_small_domains_are_met_as_often_as_large_ones(two):
    rng = np.random.default_rng(0)
    drawn = np.mean([two.draw_domain(rng) for _ in range(400)])
    by_size = DomainSampler(two.domains, two.cases, PATCH, balance=0.0).share
    assert 0.4 < drawn < 0.6 and by_size == pytest.approx([0.75, 0.25])


def test_a_mirrored_patch_swaps_the_sides_and_what_is_known():
    domain = toy_domain("smooth")
    (case,) = toy_cases(domain, "smooth", 1)
    case.known[2] = False  # the right one was not drawn
    sampler = DomainSampler([domain], [[case]], PATCH, Augmentation(mirror=1.0), foreground=0.0)
    patch = sampler.draw(0, np.random.default_rng(0))
    columns = [int(np.argwhere(patch.target.numpy() == channel)[:, 2].mean()) for channel in (1, 2)]
    assert columns[0] > columns[1], "what was on the left is on the right, and called so"
    assert patch.known.tolist() == [True, False, True] and (patch.target == OUTSIDE).any()


def test_contrast_separates_two_domains(two):
    """Its gradient alone pulls two domains apart, on patches that it has not seen."""
    torch.manual_seed(0)
    network = DomainUNet([2, 2], FILTERS, 1, own_norms=False)
    contrast = Contrast(depth_channels(FILTERS), (3, 6), 1.0, cells=1, length=8)
    optimizer = torch.optim.Adam([*network.parameters(), *contrast.parameters()], 0.01)

    def features(seed: int):
        rng = np.random.default_rng(seed)
        domain = torch.tensor([0, 0, 0, 1, 1, 1])
        return network.features(torch.cat([two.draw(int(d), rng).image for d in domain]), domain), domain

    @torch.no_grad()
    def held_out() -> float:
        found, domain = features(99)
        return float(contrast(Step([], [], found, domain))) / 2  # the mean over both depths

    before = held_out()
    for step in range(30):
        optimizer.zero_grad()
        found, domain = features(step)
        loss = contrast(Step([], [], found, domain))
        loss.backward()
        optimizer.step()
    # Without separation a vector finds its partners among five others: log 5; the least, with two partners, is log 2.
    assert held_out() < 1.0 < before, (before, held_out())


def test_the_contrastive_loss_is_what_its_formula_says():
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), dim=1)
    apart = contrastive_loss(vectors, torch.tensor([0, 0, 1]), 0.5)
    assert float(apart) == pytest.approx(np.log(1 + np.exp(-2.0)))  # exp(2) against exp(2) + exp(0)
    assert float(contrastive_loss(vectors, torch.tensor([0, 1, 2]))) == 0
    assert float(contrastive_loss(vectors, torch.tensor([0, 1, 0]), 0.5)) > float(apart)


def test_training_learns_and_the_best_weights_stay(two, tmp_path):
    torch.manual_seed(0)
    learner = Learner(DomainUNet([2, 2], FILTERS, 1))
    held_out = [toy_cases(two.domains[0], "smooth", 2, seed=5), toy_cases(two.domains[1], "grainy", 2, seed=5)]
    two.augmentation = Augmentation()
    untaught = mean_dice(learner.network, two, held_out)
    recipe = Recipe(steps=60, groups=0, learning_rate=2e-2, checks=2, dropout=0.0, mirror=False, average=0.8)
    history = learn(learner, two, recipe, tmp_path, held_out, report_every=1000)
    best = max(entry["dice"] for entry in history)
    assert best > untaught + 0.1, (untaught, history)
    assert mean_dice(learner.network, two, held_out) == pytest.approx(best, abs=1e-3)


def test_folds_leave_every_patient_out_once_and_resume(two, tmp_path):
    cases = two.cases[0]
    left_out = [case.patient for _, out in folds_of(cases, 3) for case in out]
    assert sorted(left_out) == sorted(case.patient for case in cases)
    recipe = Recipe(steps=2, checks=1, folds=2)
    asked = []

    def sampler(training):
        asked.append({case.patient for case in training[0]})
        return DomainSampler(two.domains[:1], training, PATCH)

    settings = (lambda own: DomainUNet([2], FILTERS, 1), sampler, [cases], recipe, tmp_path)
    networks = learn_folds(*settings)
    assert len(networks) == 2 and asked[0] | asked[1] == {case.patient for case in cases}
    assert len(learn_folds(*settings, resume=True)) == 2 and len(asked) == 2, "what is trained is only read"
    image = np.zeros((1, 1, *PATCH), np.float32)
    assert case_predictor(networks, 0, recipe, two.domains[0].partner)(image).shape == (1, 3, *PATCH)


def test_an_unknown_domain_gets_the_branch_in_which_its_features_look_familiar(two):
    torch.manual_seed(0)
    network = DomainUNet([2, 2], FILTERS, 1)
    branches = [network.branch(k) for k in (0, 1)]
    known = [FeatureStatistics.of(b, own, PATCH) for b, own in zip(branches, two.cases, strict=True)]
    known = [FeatureStatistics.from_json(one.to_json()) for one in known]
    for look, expected in (("smooth", 0), ("grainy", 1)):
        for case in toy_cases(two.domains[0], look, 4, seed=7):
            distances = nearest([case.image] * 2, branches, known, PATCH)
            assert int(np.argmin(distances)) == expected, distances
    notice = nearest_notice(["smooth", "grainy"], [4.0, 1.5])
    assert notice.code == "domain_guessed" and "treated as grainy" in notice.message


def test_normalizations_do_not_depend_on_the_scanner_s_scale():
    image = np.random.default_rng(0).gamma(2.0, 50, (8, 8, 8)).astype(np.float32)
    for normalize in (standard, percentile):
        np.testing.assert_allclose(normalize(image), normalize(image * 7.5), atol=1e-4)
        assert np.isfinite(normalize(np.full((4, 4, 4), 3.0))).all()


def test_a_domain_travels_through_a_bundle_and_bad_ones_are_refused(tmp_path):
    domain = toy_domain("smooth")
    again = Domain.from_json(domain.to_json())
    assert [s.id for s in again.structures] == [s.id for s in domain.structures] and again.inputs == domain.inputs
    entry = {"name": "x", "modality": "MR", "inputs": ["wide"], "grid_mm": 1.0, "structures": ["liver"]}
    with pytest.raises(InputError, match="cannot be normalized by wide"):
        read_domain(entry, tmp_path)
    with pytest.raises(InputError, match="has no tail"):
        read_domain(entry | {"structures": ["tail"]}, tmp_path)
    (tmp_path / "own.csv").write_text("value,id\n1,a\n")
    with pytest.raises(InputError, match="own.csv cannot be read"):
        read_domain(entry | {"inputs": ["standard"], "label_table": "own.csv"}, tmp_path)


def test_a_focal_loss_looks_at_what_is_hard():
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[:, 1, :2] = 4.0  # sure, and right
    target = torch.ones(4, 4, 4, dtype=torch.uint8)
    known = torch.tensor([True, True])
    plain, focal = (marginal_loss(logits, target, known, dice=0.0, focal=f) for f in (0.0, 2.0))
    assert focal < plain and marginal_loss(logits, target, known) > plain


def test_agreement_of_shifted_boxes_is_known():
    truth = np.zeros((20, 20, 20), bool)
    truth[5:15, 5:15, 5:15] = True
    found = agreement(truth, np.roll(truth, 2, 0), (1.5, 1.0, 1.0))
    assert found.dice == pytest.approx(0.8) and found.sensitivity == pytest.approx(0.8)
    assert found.farthest == pytest.approx(3.0) and 0 < found.mean_distance < 3 and found.volume == 0
    nothing = agreement(truth, np.zeros_like(truth), (1.0, 1.0, 1.0))
    assert nothing.dice == 0 and nothing.volume == -1 and np.isnan(nothing.farthest)
    labels = toy_labels(np.random.default_rng(0))
    assert dice_by_channel(labels, labels, np.array([True, True, False])) == {1: 1.0}
