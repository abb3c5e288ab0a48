"""Engines: from a bundle to a function that maps a batch of float32 arrays to a batch of float32 arrays.

Everything around the networks (windows, blending, resampling) is numpy and SimpleITK, so engines are interchangeable.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from bpr.compute.device import choose
from bpr.errors import BundleError, MemoryShortage
from bpr.models import Bundle

Predictor = Callable[[np.ndarray], np.ndarray]


class OpenVinoEngine:
    """OpenVINO on the CPU, in full precision so that it agrees with torch."""

    name, device = "openvino", "cpu"

    def __init__(self, threads: int | None = None):
        import openvino

        self._core = openvino.Core()
        self._options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads

    def predictor(self, bundle: Bundle, tile: tuple[int, int, int] | None = None) -> Predictor:
        """Compile a bundle's graph, for another tile than its own if asked. Raises BundleError when it is damaged."""
        bundle.verify()
        try:
            model = self._core.read_model(str(bundle.graph))
            if tile:
                model.reshape([*list(model.input().shape)[:2], *tile])
            compiled = self._core.compile_model(model, "CPU", self._options)
        except RuntimeError as error:
            raise BundleError(f"The model {bundle.name} cannot be loaded: its graph and its weights do not fit.",
                              "Install the bundle again.") from error  # fmt: skip
        request = compiled.create_infer_request()
        return lambda batch: request.infer([batch])[0]


class TorchEngine:
    """torch and MONAI on CUDA, MPS or the CPU."""

    name = "torch"

    def __init__(self, device: str, threads: int | None = None):
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.device = device
        self._torch = torch

    def predictor(self, bundle: Bundle, tile: tuple[int, int, int] | None = None) -> Predictor:
        """Build the network that the bundle describes and read its weights; it takes a tile of any size."""
        from bpr.compute.torch_networks import load_network

        bundle.verify()
        torch, device = self._torch, self.device
        network = load_network(bundle).to(device).eval()

        def predict(batch: np.ndarray) -> np.ndarray:
            try:
                with torch.inference_mode():
                    return network(torch.from_numpy(np.ascontiguousarray(batch)).to(device)).float().cpu().numpy()
            except torch.cuda.OutOfMemoryError as error:
                raise MemoryShortage(f"The GPU {device} has too little free memory for one tile.",
                                     "Use --device cpu, or free the GPU.") from error  # fmt: skip

        return predict


def open_engine(engine: str = "auto", device: str = "auto", threads: int | None = None) -> OpenVinoEngine | TorchEngine:
    """The engine that ``bpr.compute.device.choose`` decides on, with so many threads (None: as many as it likes)."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    name, device = choose(engine, device)
    return OpenVinoEngine(threads) if name == "openvino" else TorchEngine(device, threads)
