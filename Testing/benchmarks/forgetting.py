"""Domains one after the other: which network with which strategy learns the new ones without forgetting the old?

make study NAME=forgetting   (QUICK=1: few people, steps and networks, nothing is stored; BPR_STUDY_WORK keeps runs)

Hippocampus in MR (two parts, 1.5 mm), two real families of scans and a simulated scanner, in three orders. Networks
have about 3.8 million parameters each. After each domain the Dice of every domain's test people is measured:

- average accuracy: mean over domains after the last one; joint training on all at once is the bound
- backward transfer: what a domain's Dice has changed since it was learned; forgetting: what it lost from its best
- forward transfer: Dice on a domain just before it is learned, minus that of the untrained network
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from forgetting_runs import DEFAULT, JOINT, NAIVE, OTHERS, Scores, Strategy, sequence
from hippocampus import DOMAINS, TILE, load_domains
from study import QUICK, RESULTS, Row, part, write_study

from bpr.segmentation.candidates import CANDIDATES, build_candidate
from bpr.training.dataset import data_folder

OURS = "DynUNet"
ORDERS = [[DOMAINS[(k + shift) % len(DOMAINS)] for k in range(len(DOMAINS))] for shift in range(len(DOMAINS))]
STEPS = (4, 3) if QUICK else (100, 45)  # for the first domain, for each further one
REPEATS = 2000
MEASURES = ("average accuracy", "backward transfer", "forgetting", "forward transfer")
Runs = dict[tuple[str, str], list[list[Scores]]]


@dataclass(frozen=True)
class Plan:
    """One sequence: a network, a strategy and the number of its order."""

    network: str
    strategy: Strategy
    order: int


def plans() -> list[Plan]:
    """Every sequence, one order after the other; the strategies that are not the default go through the first only."""
    if QUICK:
        return [Plan(OURS, s, 0) for s in (JOINT, NAIVE, DEFAULT)] + [Plan("VNet", NAIVE, 0)]
    found = []
    for order in range(len(ORDERS)):
        found += [Plan(OURS, strategy, order) for strategy in (NAIVE, DEFAULT, *(OTHERS if not order else ()))]
        found += [Plan(name, strategy, order) for name in CANDIDATES if name != OURS for strategy in (NAIVE, DEFAULT)]
        found += [Plan(name, JOINT, order) for name in CANDIDATES if not order]  # knows no order
    return found


def gathered(domains: dict) -> Runs:
    """(network, strategy) to the sequences of each order; what is done already is read."""
    found: Runs = {}
    for plan in plans():
        order = ORDERS[plan.order]
        name = f"forgetting{'_quick' * QUICK}_{plan.network}_{plan.strategy.name}_{plan.order}".replace(" ", "")

        def run(plan: Plan = plan, order: list[str] = order) -> list[Scores]:
            started = time.process_time()
            scores = sequence(plan.network, plan.strategy, order, domains, STEPS, plan.order)
            last = ", ".join(f"{name} {np.mean(list(people.values())):.3f}" for name, people in scores[-1].items())
            print(f"{plan.network}, {plan.strategy.name}, {' > '.join(order)}: {last}, "
                  f"{time.process_time() - started:.0f} s", flush=True)  # fmt: skip
            return scores

        found.setdefault((plan.network, plan.strategy.name), []).append(part(name, run))
    return found


class People:
    """The test people of each domain, all of them first and then drawn with replacement, alike for every sequence."""

    def __init__(self, scores: Scores):
        rng = np.random.default_rng(0)
        self.names = {domain: sorted(people) for domain, people in scores.items()}
        self.drawn = {}
        for domain, names in self.names.items():
            drawn = rng.integers(0, len(names), (REPEATS, len(names)))
            self.drawn[domain] = np.concatenate([np.arange(len(names))[None], drawn])

    def matrix(self, sequence: list[Scores], order: list[str]) -> np.ndarray:
        """(stages, domains in their order, 1 + repeats) mean Dice."""
        return np.array([[self._means(stage, domain) for domain in order] for stage in sequence])

    def _means(self, stage: Scores, domain: str) -> np.ndarray:
        values = np.array([stage[domain][name] for name in self.names[domain]])
        return values[self.drawn[domain]].mean(1)


def measures(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """The four measures of one sequence, each (1 + repeats,); row 0 of the matrix is the untrained network."""
    last, count = matrix[-1], matrix.shape[1]
    found = {"average accuracy": last.mean(0)}
    if len(matrix) == count + 1:  # one stage a domain
        own = np.array([matrix[k + 1, k] for k in range(count)])
        best = np.array([matrix[k + 1 :, k].max(0) for k in range(count)])
        before = np.array([matrix[k, k] - matrix[0, k] for k in range(1, count)])
        found |= {"backward transfer": (last - own)[:-1].mean(0), "forgetting": (best - last)[:-1].mean(0),
                  "forward transfer": before.mean(0)}  # fmt: skip
    return found


def averaged(found: Runs) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """(network, strategy) to its measures, averaged over the orders."""
    people = People(next(iter(found.values()))[0][0])
    table = {}
    for key, sequences in found.items():
        each = [measures(people.matrix(scores, ORDERS[k])) for k, scores in enumerate(sequences)]
        table[key] = {name: np.mean([one[name] for one in each], 0) for name in each[0]}
    return table


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """The value over all people and the 95 % interval of the drawn ones."""
    return float(draws[0]), *map(float, np.percentile(draws[1:], (2.5, 97.5)))


def rows_of(table: dict) -> list[Row]:
    """The bars, then every measure of every network and strategy."""
    ours, joint, vnet = (table[key] for key in ((OURS, "default"), (OURS, "joint"), ("VNet", "naive")))
    compared = (("average accuracy: default minus joint training", ours["average accuracy"] - joint["average accuracy"],
                 ">= -0.01", ""),
                ("backward transfer: default minus naive VNet", ours["backward transfer"] - vnet["backward transfer"],
                 "", ">= 0"))  # fmt: skip
    rows = []
    for name, draws, goal, low_goal in compared:
        value, low, high = interval(draws)
        rows += [Row(name, value, "Dice", goal), Row(f"{name}, lower end", low, "Dice", low_goal),
                 Row(f"{name}, upper end", high, "Dice")]  # fmt: skip
    return rows + [Row(f"{network}, {strategy}: {name}", float(draws[0]), "Dice")
                   for (network, strategy), found in table.items() for name, draws in found.items()]  # fmt: skip


def write_tables(table: dict, found: Runs) -> None:
    """results/forgetting_table.md with intervals, forgetting_matrix.md (accuracy matrices) and forgetting.png."""
    if QUICK:
        return
    lines = ["| network | million parameters | strategy | " + " | ".join(MEASURES) + " |", "|---" * 7 + "|"]
    for (network, strategy), measured in table.items():
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*interval(measured[m])) if m in measured else "" for m in MEASURES]
        size = sum(p.numel() for p in build_candidate(network, 3, 1, TILE).parameters()) / 1e6
        lines.append(f"| {network} | {size:.1f} | {strategy} | " + " | ".join(cells) + " |")
    (RESULTS / "forgetting_table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    people = People(next(iter(found.values()))[0][0])
    lines = ["| network, strategy | order, after | " + " | ".join(DOMAINS) + " |", "|---" * 5 + "|"]
    for network, strategy in ((OURS, "naive"), (OURS, "default"), ("VNet", "naive")):
        for k, scores in enumerate(found[network, strategy]):
            dice = people.matrix(scores, list(DOMAINS))[1:, :, 0]
            lines += [f"| {network}, {strategy} | {k + 1}, {domain} | " + " | ".join(f"{x:.3f}" for x in row) + " |"
                      for domain, row in zip(ORDERS[k], dice, strict=True)]  # fmt: skip
    (RESULTS / "forgetting_matrix.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(table)


def _draw(table: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, plots = plt.subplots(1, 2, figsize=(10, 6), sharey=True, layout="constrained")
    keys = sorted(table, key=lambda key: list(CANDIDATES).index(key[0]))
    colors = {name: f"C{k}" for k, name in enumerate(CANDIDATES)}
    for plot, measure in zip(plots, MEASURES[:2], strict=True):
        for y, key in enumerate(keys):
            if measure in table[key]:
                mean, low, high = interval(table[key][measure])
                plot.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=colors[key[0]], capsize=3)
        plot.set_xlabel(f"{measure}, Dice, 95 % interval")
        plot.grid(alpha=0.3)
    plots[0].set_yticks(range(len(keys)), [f"{network}, {strategy}" for network, strategy in keys])
    plots[0].invert_yaxis()
    figure.savefig(RESULTS / "forgetting.png", dpi=120)
    plt.close(figure)


def main() -> None:
    started = time.time()
    domains = load_domains(data_folder(None), 3 if QUICK else 10**9)
    found = gathered(domains)
    table = averaged(found)
    rows = [Row("domains", len(domains), ""), Row("orders", len(next(iter(found.values()))), ""),
            Row("test people a domain", len(next(iter(domains.values())).test), "")]  # fmt: skip
    write_tables(table, found)
    write_study("forgetting", rows + rows_of(table), started)


if __name__ == "__main__":
    main()
