"""The networks of the comparison: about as large as each other, and each of them can learn."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="networks need torch, which this environment leaves out")
pytest.importorskip("monai", reason="networks need monai, which this environment leaves out")

from bpr.segmentation.candidates import CANDIDATES, build_candidate  # noqa: E402

TILE = (32, 32, 32)
MILLIONS = 3.8


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_candidate_has_the_size_of_the_others_and_every_weight_learns(name: str):
    torch.manual_seed(0)
    network = build_candidate(name, 3, 2, TILE)
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert MILLIONS * 0.7 < size < MILLIONS * 1.3
    logits = network(torch.randn(1, 2, *TILE))
    assert logits.shape == (1, 3, *TILE)
    logits.square().mean().backward()
    silent = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert all("norm_cross_attn" in key for key in silent), silent  # MONAI's transformers carry it and do not use it


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no network 'LeNet'; known: DynUNet"):
        build_candidate("LeNet", 3, 1, TILE)
