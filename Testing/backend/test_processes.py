"""Training by torchrun: two processes learn what one process learns of the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch, which this environment leaves out")
pytest.importorskip("monai", reason="training needs monai, which this environment leaves out")

import numpy as np  # noqa: E402

from bpr.training import processes  # noqa: E402
from bpr.training.loop import Schedule, Trainer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
STEPS, BATCHES = 50, 4


def train(folder: Path, batches: int = BATCHES) -> dict:
    """Fifty steps of a toy network that labels the brighter half of noisy images; losses by step and the weights."""
    torch.manual_seed(processes.rank())  # every process begins elsewhere: the first one's weights must win
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1, bias=False), torch.nn.InstanceNorm2d(6, affine=True), torch.nn.ReLU(),
        torch.nn.Dropout(0.1), torch.nn.Conv2d(6, 2, 1))  # fmt: skip

    def loss_of(net, rng):
        target = rng.random((3, 12, 12)) < 0.5
        image = torch.from_numpy(target + rng.normal(0, 0.5, target.shape)).float()[:, None]
        return torch.nn.functional.cross_entropy(net(image), torch.from_numpy(target).long())

    losses: list[float] = []
    schedule = Schedule(steps=STEPS, learning_rate=0.02, threads=1, seed=3, batches=batches)
    trainer = Trainer(network, [{"params": list(network.parameters())}], schedule, folder)
    trainer.run(loss_of, watch=lambda loss: losses.append(loss))
    return {"losses": losses, "weights": {name: t.tolist() for name, t in network.state_dict().items()}}


def alone_in(folder: Path) -> None:
    """What each process of the torchrun does; the first one writes down what came out."""
    with processes.joined():
        with processes.first_before_others():
            (folder / f"cache{processes.rank()}").write_text(" ".join(p.name for p in folder.glob("cache*")))
        found = train(folder)
        (folder / f"found{processes.rank()}.json").write_text(json.dumps(found | {"count": processes.count()}))


def start(number: int, port: int, folder: Path) -> subprocess.Popen:
    """One process with the environment that torchrun gives it; torchrun itself would import torch once more."""
    told = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    more = {"PYTHONPATH": ROOT / "BPRSegmentation", "OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | {key: str(value) for key, value in (told | more).items()}
    return subprocess.Popen([sys.executable, __file__, str(folder)], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def test_two_processes_learn_what_one_learns_of_the_same_batches(tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [start(number, port, both) for number in (0, 1)]
    said = [process.communicate(timeout=400) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    first, second = (json.loads((both / f"found{k}.json").read_text()) for k in (0, 1))
    one = train(tmp_path / "one")
    assert first["count"] == 2 and first == second, "both hold the same network and report the same loss"
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=0, atol=1e-4)
    assert first["losses"][-1] < 0.7 * first["losses"][0], "it learns"
    for name, values in one["weights"].items():
        np.testing.assert_allclose(first["weights"][name], values, rtol=0, atol=1e-3)
    assert (both / "cache0").read_text() == "" and (both / "cache1").read_text() == "cache0"
    assert len((both / "log.jsonl").read_text().splitlines()) == STEPS // 25, "one process reports"
    assert f"step {STEPS}/{STEPS}" in said[0][0] and said[1][0] == ""


def test_other_batches_give_another_curve(tmp_path):
    """The comparison above could fail: half of the batches is another training."""
    one, half = train(tmp_path / "a"), train(tmp_path / "b", BATCHES // 2)
    assert np.abs(np.subtract(one["losses"], half["losses"])).max() > 1e-3


if __name__ == "__main__":
    alone_in(Path(sys.argv[1]))
