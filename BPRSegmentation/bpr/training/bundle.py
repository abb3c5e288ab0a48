"""From a trained network to a bundle: one weights file in half precision that torch and OpenVINO both read.

The safetensors file holds the parameters under their torch names. The ONNX graph refers to byte ranges of that file
as external data and casts them to single precision, so nothing is stored twice.
"""

from __future__ import annotations

import json
import struct
import tempfile
import warnings
from pathlib import Path

import monai
import numpy as np
import onnx
import safetensors.torch
import torch
from onnx import TensorProto, helper
from torch import nn

from bpr import __version__
from bpr.files import whole
from bpr.models import Bundle, write_sums

OPSET = 17


def write_bundle(
    folder: Path, network: nn.Module, definition: dict, example: torch.Tensor, metadata: dict, card: str
) -> Bundle:
    """Write a complete bundle; an existing one of that name is replaced at the end, as a whole.

    Args:
        definition: ``_target_`` (a key of bpr.compute.torch_networks.BUILDERS) and arguments of the network.
        example: one input batch; its shape becomes the graph's.
        metadata: MONAI metadata fields with our own under "bpr".
    """
    with whole(folder) as partial:
        _fill(partial, network, definition, example, metadata, card)
    return Bundle(folder)


def _fill(
    partial: Path, network: nn.Module, definition: dict, example: torch.Tensor, metadata: dict, card: str
) -> None:
    """Write the files of a bundle into a new folder."""
    for part in ("configs", "models", "docs"):
        (partial / part).mkdir(parents=True)
    names = _first_names(network)
    state = network.state_dict()
    halves = {name: state[name].detach().half().contiguous() for name in dict.fromkeys(names.values())}
    weights = partial / "models" / "model.safetensors"
    safetensors.torch.save_file(halves, weights)
    _write_graph(network, example, weights, names, partial / "models" / "model.onnx")
    versions = {"monai_version": monai.__version__, "pytorch_version": torch.__version__.split("+")[0],
                "numpy_version": np.__version__}  # fmt: skip
    _write_json(partial / "configs" / "metadata.json", metadata | versions)
    _write_json(partial / "configs" / "inference.json", {"network_def": definition})
    (partial / "docs" / "README.md").write_text(card, encoding="utf-8")
    write_sums(partial)


def bundle_metadata(
    config: dict,
    task: str,
    facts: dict,
    example: torch.Tensor,
    outputs: int,
    channels: dict[str, str],
    licence: str,
    value_range: tuple[float, float] = (-2, 2),
) -> dict:
    """MONAI's metadata fields with our facts under "bpr".

    Args:
        config: the training configuration; its ``version`` becomes the bundle's.
        example: one input batch. ``outputs`` counts the network's output channels, ``channels`` names channels.
        value_range: of the input after its intensities are scaled.
    """
    shape = list(example.shape[2:])
    image = {"type": "image", "format": "hounsfield", "modality": "CT", "num_channels": example.shape[1],
             "spatial_shape": shape, "dtype": "float32", "value_range": list(value_range)}  # fmt: skip
    logits = {"type": "image", "format": "logits", "num_channels": outputs, "spatial_shape": shape,
               "dtype": "float32", "channel_def": channels}  # fmt: skip
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": config["version"],
        "changelog": {config["version"]: "first version"},
        "task": task,
        "description": f"{task}; part of BodyPartRegression for 3D Slicer {__version__}.",
        "authors": "BodyPartRegression contributors",
        "copyright": "Copyright (c) BodyPartRegression contributors",
        "license": licence,
        "intended_use": "Research only; not a medical device.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": logits}},
        "bpr": facts,
    }


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _first_names(network: nn.Module) -> dict[str, str]:
    """Every state name to the first name of the same tensor: MONAI's DynUNet registers each block twice."""
    first: dict[int, str] = {}
    return {name: first.setdefault(tensor.data_ptr(), name) for name, tensor in network.state_dict().items()}


def _write_graph(network: nn.Module, example: torch.Tensor, weights: Path, names: dict[str, str], target: Path) -> None:
    """Export the graph, then let its parameters point into the safetensors file."""
    network = network.float().eval()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = Path(scratch) / "model.onnx"
        torch.onnx.export(network, (example,), str(exported), dynamo=False, do_constant_folding=False,
                          opset_version=OPSET, input_names=["image"], output_names=["logits"])  # fmt: skip
        model = onnx.load(str(exported))
    ranges = _byte_ranges(weights)
    casts, parameters, renamed = [], [], set()
    for tensor in list(model.graph.initializer):
        if tensor.name not in names:
            continue
        model.graph.initializer.remove(tensor)
        renamed.add(tensor.name)
        parameters.append(_external(tensor, ranges[names[tensor.name]], weights.name))
        casts.append(helper.make_node("Cast", [tensor.name], [f"{tensor.name}.single"], to=TensorProto.FLOAT))
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if name in renamed:
                node.input[k] = f"{name}.single"
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(parameters)
    target.write_bytes(model.SerializeToString())


def _byte_ranges(path: Path) -> dict[str, tuple[int, int]]:
    """Name to (offset, length) in bytes of every tensor in a safetensors file."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    start = 8 + size
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _external(tensor: TensorProto, place: tuple[int, int], file_name: str) -> TensorProto:
    """The same initializer as half precision in another file."""
    external = TensorProto(name=tensor.name, data_type=TensorProto.FLOAT16, dims=tensor.dims)
    external.data_location = TensorProto.EXTERNAL
    for key, value in (("location", file_name), ("offset", place[0]), ("length", place[1])):
        external.external_data.add(key=key, value=str(value))
    return external
