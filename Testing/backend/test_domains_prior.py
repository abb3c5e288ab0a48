"""The anatomical prior: corruptions are what they say, codes tell them from what a person has, and the loss uses it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

from domain_samples import toy_cases, toy_domain, toy_labels  # noqa: E402

from bpr.domains.commands import train_coder  # noqa: E402
from bpr.domains.corruption import KINDS, corrupted  # noqa: E402
from bpr.domains.learning import Step  # noqa: E402
from bpr.domains.network import Outputs  # noqa: E402
from bpr.domains.prior import LabelCoder, PriorTerm, plausibility  # noqa: E402
from bpr.domains.sampling import Augmentation, DomainSampler  # noqa: E402

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


def test_a_coder_of_two_anatomies_tells_swapped_sides_in_maps_of_new_people(tmp_path):
    """Swapped sides only: leaked maps are not told yet (docs/domains.md), and nothing in the program relies on it."""
    domains = [toy_domain("smooth"), toy_domain("grainy", prefix="other")]
    cases = [toy_cases(domain, "smooth", 6, seed=k) for k, domain in enumerate(domains)]
    sampler = DomainSampler(domains, cases, PATCH, Augmentation())
    coder = train_coder(sampler, tmp_path, 400)
    again = train_coder(sampler, tmp_path, 400, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(coder.parameters(), again.parameters(), strict=True))
    rng, real, corrupt = np.random.default_rng(5), [], []
    for number in range(12):
        labels = toy_labels(np.random.default_rng([99, number]))
        real.append(plausibility(coder, labels, number % 2).score)
        corrupt.append(plausibility(coder, corrupted(labels, domains[0].partner, rng, "swapped")[0], number % 2).score)
    auc = (np.array(real)[:, None] > np.array(corrupt)[None]).mean()
    assert auc > 0.9, (real, corrupt)


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
