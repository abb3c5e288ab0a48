"""What every study writes: rows of name, value, goal and whether it is met, as JSON and as a Markdown table."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
QUICK = os.environ.get("QUICK", "") not in ("", "0")


@dataclass(frozen=True)
class Row:
    """One measurement. ``goal`` is a bound such as "<= 40", or "" when there is none."""

    name: str
    value: float
    unit: str
    goal: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is within its goal; None without one."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return bool(self.value <= float(bound) if sign == "<=" else self.value >= float(bound))


def _kept(name: str) -> Path | None:
    """Where $BPR_STUDY_WORK keeps a part's values; None without it."""
    work = os.environ.get("BPR_STUDY_WORK")
    return Path(work, f"{name.replace('/', '-')}.json") if work else None


def is_done(name: str) -> bool:
    """Whether the values of a part are kept from an earlier run."""
    kept = _kept(name)
    return kept is not None and kept.is_file()


def part(name: str, run: Callable[[], object]) -> object:
    """What ``run`` returns (plain values), kept in $BPR_STUDY_WORK: a long study goes on where it was stopped."""
    done = _kept(name)
    if done and done.is_file():
        return json.loads(done.read_text(encoding="utf-8"))
    found = run()
    if done:
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def earlier_rows(name: str) -> list[Row]:
    """The rows of the stored result, for a study that measures a part of itself anew; none when there is no result."""
    stored = RESULTS / f"{name}.json"
    if not stored.is_file():
        return []
    found = json.loads(stored.read_text(encoding="utf-8"))["measured"]
    return [Row(row["name"], row["value"], row["unit"], row["goal"]) for row in found]


def write_study(name: str, rows: list[Row], started: float) -> None:
    """Print the table and, unless it was a quick run, store it under ``results``."""
    lines = ["| measure | value | goal | met |", "|---|---|---|---|"]
    lines += [f"| {r.name} | {r.value:.4g} {r.unit} | {r.goal} | {'' if r.met is None else r.met} |" for r in rows]
    print("\n".join(lines))
    if QUICK:
        return
    packages = {package: version(package) for package in ("numpy", "SimpleITK", "openvino", "torch", "monai")}
    content = {
        "measured": [asdict(r) | {"met": r.met} for r in rows],
        "seconds": round(time.time() - started, 1),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": packages,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
