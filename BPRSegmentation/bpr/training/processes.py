"""Training on several GPUs or machines: the processes that torchrun started, and sums over all of them.

Every process holds the whole network and draws its own batches of a step; gradients are summed (data parallel
training). Without torchrun there is one process, and everything here is a matter of course.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
from torch import distributed


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of a torchrun for as long as the context lasts; without torchrun do nothing.

    Each process takes the GPU of its local number where there are GPUs (NCCL), else the CPU (gloo).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 for the first, which alone writes files and reports."""
    return distributed.get_rank() if _several() else 0


def count() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if _several() else 1


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
    """What the first process prepares in the work folder, such as a cache, the others find there."""
    if rank():
        distributed.barrier()
    yield
    if _several() and rank() == 0:
        distributed.barrier()


def sum_in_place(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all processes; one exchange for all of them."""
    tensors = list(tensors)
    if not _several() or not tensors:
        return
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def start_alike(network: torch.nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if _several():
        for tensor in network.state_dict().values():
            distributed.broadcast(tensor, 0)
