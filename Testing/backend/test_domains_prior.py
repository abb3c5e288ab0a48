"""The anatomical prior: corruptions are what they say, a critic tells them from real maps, and the loss uses codes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from domain_samples import toy_cases, toy_domain, toy_labels  # noqa: E402

from bpr.domains.commands import train_coder  # noqa: E402
from bpr.domains.corruption import KINDS, corrupted  # noqa: E402
from bpr.domains.critic import train_critic  # noqa: E402
from bpr.domains.learning import Step  # noqa: E402
from bpr.domains.measures import OWN, measured  # noqa: E402
from bpr.domains.network import Outputs  # noqa: E402
from bpr.domains.plausibility import Critic, plausibility  # noqa: E402
from bpr.domains.prior import LabelCoder, PriorTerm, _reconstruction_loss, as_maps, coarse_sampler  # noqa: E402
from bpr.domains.sampling import Augmentation, DomainSampler  # noqa: E402
from bpr.training.cases import OUTSIDE  # noqa: E402

PATCH = (16, 16, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_what_it_is_called(kind: str):
    domain, labels = toy_domain("smooth"), toy_labels(np.random.default_rng(0))
    changed, done = corrupted(labels, domain.partner, np.random.default_rng(1), kind)
    before, after = (np.bincount(one.ravel(), minlength=3)[1:] for one in (labels, changed))
    assert done == kind and (changed != labels).any()
    if kind == "missing":
        assert (after == 0).sum() == 1
    elif kind == "swapped":
        assert after.tolist() == before[::-1].tolist() and ((changed > 0) == (labels > 0)).all()
    elif kind == "leaked":
        assert (after > 1.3 * before).any()
    else:
        moved = [np.abs(np.subtract(*(np.argwhere(one == v).mean(0) for one in (labels, changed)))).max()
                 for v in (1, 2) if (changed == v).any()]  # fmt: skip
        assert max(moved, default=9) > 1


def test_nothing_can_be_corrupted_where_nothing_is():
    empty = np.zeros((8, 8, 8), np.uint8)
    changed, done = corrupted(empty, toy_domain("smooth").partner, np.random.default_rng(0))
    assert done == "" and changed is empty


def test_a_coder_of_two_anatomies_learns_and_comes_back_from_its_folder(tmp_path):
    domains = [toy_domain("smooth"), toy_domain("grainy", prefix="other")]
    cases = [toy_cases(domain, "smooth", 6, seed=k) for k, domain in enumerate(domains)]
    sampler = DomainSampler(domains, cases, PATCH, Augmentation())
    coder = train_coder(sampler, tmp_path, 400)
    again = train_coder(sampler, tmp_path, 400, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(coder.parameters(), again.parameters(), strict=True))
    new = [toy_cases(domain, "smooth", 4, seed=99) for domain in domains]
    others = coarse_sampler(DomainSampler(domains, new, PATCH, Augmentation()), Augmentation())
    torch.manual_seed(1)
    untrained = LabelCoder([2, 2], coder.shape).eval()
    labels = np.stack([others.draw(0, np.random.default_rng(k)).target.numpy() for k in range(8)])
    wanted = coder.spread(as_maps(labels, 2), 0)
    with torch.inference_mode():
        losses = [float(_reconstruction_loss(one.decode(one.encode(wanted)), wanted)) for one in (coder, untrained)]
    assert losses[0] < 0.7 * losses[1], losses


@pytest.fixture(scope="module")
def critic(tmp_path_factory) -> Critic:
    """Of six people."""
    domain, folder = toy_domain("smooth"), tmp_path_factory.mktemp("critic")
    critic = train_critic(domain, toy_cases(domain, "smooth", 6), folder)
    again = Critic.load(folder / "critic.npz")
    assert all((a == b).all() for one, two in zip(critic.layers, again.layers, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip
    return again


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_tells_corrupted_maps_from_those_of_new_people(critic: Critic, kind: str):
    rng, partner, real, corrupt = np.random.default_rng(5), toy_domain("smooth").partner, [], []
    for number in range(20):
        labels = toy_labels(np.random.default_rng([99, number]))
        real.append(plausibility(critic, labels).score)
        corrupt.append(plausibility(critic, corrupted(labels, partner, rng, kind)[0]).score)
    auc = (np.array(real)[:, None] > np.array(corrupt)[None]).mean()
    assert auc > 0.9, (auc, real, corrupt)


def test_a_critic_says_which_structure_is_missing_and_excuses_what_nobody_could_see(critic: Critic):
    labels = toy_labels(np.random.default_rng([99, 0]))
    without = np.where(labels == 2, 0, labels).astype(np.uint8)
    missing = plausibility(critic, without)
    assert missing.by_channel[2] < 0.5 < missing.by_channel[1]
    not_asked = plausibility(critic, without, np.array([True, True, False]))
    assert not_asked.score > missing.score and list(not_asked.by_channel) == [1]


def test_measures_do_not_change_with_the_place_and_know_the_scan_end():
    labels = np.pad(toy_labels(np.random.default_rng(0)), 60)
    known, spacing = np.ones(3, bool), (1.0, 2.0, 3.0)
    numbers = measured(labels, known, spacing)
    moved = measured(np.roll(labels, (2, 3, -4), (0, 1, 2)), known, spacing)
    place = np.isin(np.arange(len(numbers)) % OWN, (OWN - 2, OWN - 1))  # room to the scan's ends
    np.testing.assert_allclose(numbers[~place], moved[~place], atol=1e-4)
    assert numbers[2] == pytest.approx(np.log((labels == 1).sum() * 6.0)), "the log of the volume in mm3"
    top = np.argwhere(labels == 1)[:, 0].max()
    labels[top:] = OUTSIDE
    cut = measured(labels, known, spacing)
    assert cut[OWN - 4] > 0 and cut[OWN - 1] == 0, "it ends where the scan does"


def test_the_loss_term_is_zero_for_the_truth_and_leads_towards_it():
    torch.manual_seed(0)
    domain = toy_domain("smooth")
    coder = LabelCoder([2], tuple(n // 2 for n in PATCH))
    sampler = DomainSampler([domain], [toy_cases(domain, "smooth", 2)], PATCH, Augmentation())
    patches = [sampler.draw(0, np.random.default_rng(k)) for k in range(2)]
    term, target = PriorTerm(coder, 1.0), torch.stack([patch.target for patch in patches]).long()
    sure = 20 * torch.nn.functional.one_hot(target.clamp(max=2) * (target < 3), 3).movedim(-1, 1).float()
    assert float(term(Step([patches], [Outputs(sure, None, [])], [], None))) < 1e-3
    unsure = torch.zeros_like(sure, requires_grad=True)
    loss = term(Step([patches], [Outputs(unsure, None, [])], [], None))
    loss.backward()
    better = (unsure - 0.1 * unsure.grad / unsure.grad.abs().max()).detach()
    assert float(term(Step([patches], [Outputs(better, None, [])], [], None))) < float(loss)
    assert not list(term.parameters()), "the coder is fixed: it is neither trained nor stored with the network"
