"""Networks for the torch engine and for training: built from an allowlist, never from code that a config names."""

from __future__ import annotations

from collections.abc import Callable

import safetensors.torch
import torch
from torch import nn

from bpr.body_composition.network import build_network as build_composition_network
from bpr.body_composition.spine_network import SpineNetwork
from bpr.domains.ensemble import build_ensemble
from bpr.errors import BundleError
from bpr.models import Bundle
from bpr.scoring.network import ScoreNetwork
from bpr.segmentation.network import build_network

BUILDERS: dict[str, Callable[..., nn.Module]] = {"ScoreNetwork": ScoreNetwork, "DynUNet": build_network,
                                                 "BodyCompositionNet": build_composition_network,
                                                 "SpineNetwork": SpineNetwork, "Ensemble": build_ensemble}  # fmt: skip


def load_network(bundle: Bundle) -> nn.Module:
    """The bundle's network with its weights, in float32. Raises BundleError when they do not fit together."""
    definition = dict(bundle.network_definition)
    kind = definition.pop("_target_", None)
    if kind not in BUILDERS:
        raise BundleError(f"The model {bundle.name} asks for an unknown network {kind!r}.",
                          f"Known networks: {', '.join(BUILDERS)}.")  # fmt: skip
    try:
        network = BUILDERS[kind](**definition)
        weights = safetensors.torch.load_file(str(bundle.weights))
        _fill(network, weights)
    except (TypeError, ValueError, RuntimeError, OSError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"The model {bundle.name} does not fit its network: {reason}.",
                          "Install the bundle again.") from error  # fmt: skip
    return network


def _fill(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy every stored tensor into the network; a tensor known under two names is stored under its first."""
    state = network.state_dict()
    filled = set()
    for name, tensor in weights.items():
        if name not in state or state[name].shape != tensor.shape:
            raise ValueError(f"{name} has no place of that shape")
        state[name].copy_(tensor)
        filled.add(state[name].data_ptr())
    missing = [name for name, tensor in state.items() if tensor.data_ptr() not in filled]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
