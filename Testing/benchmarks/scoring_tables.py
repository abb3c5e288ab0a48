"""Tables and plots of the scoring study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study import Row

from bpr.evaluation.score import KINDS
from bpr.evaluation.statistics import bootstrap_mean

SLICE_MM = 3.5  # slice distance of the published package, for errors in slices
VERTEBRA_MM = 25.0


@dataclass(frozen=True)
class Errors:
    """Columns of one recipe's landmark errors; ``error`` is predicted minus annotated, mm, ``sd`` what was stated."""

    scan: np.ndarray
    patient: np.ndarray
    landmark: np.ndarray
    kind: np.ndarray
    error: np.ndarray
    sd: np.ndarray

    def of(self, kind: str) -> np.ndarray:
        """Boolean mask of the rows of one of ``bpr.evaluation.score.KINDS``."""
        return np.isin(self.kind, KINDS[kind])

    def absolute(self, kind: str) -> np.ndarray:
        """|error| in mm."""
        return np.abs(self.error[self.of(kind)].astype(float))

    def mean(self, kind: str) -> float:
        """Mean absolute error in mm."""
        return float(self.absolute(kind).mean())

    def coverage(self, kind: str) -> float:
        """Share of stated 90 % intervals that hold the annotated height."""
        own = self.of(kind)
        return float((np.abs(self.error[own].astype(float)) <= 1.645 * self.sd[own].astype(float)).mean())

    def summary(self) -> str:
        """One line for the terminal."""
        return ", ".join(f"{kind} {self.mean(kind):.1f} mm" for kind in KINDS)


def paired(a: list[Errors], b: list[Errors], kind: str = "all", repeats: int = 2000) -> tuple[float, float, float]:
    """Ratio of mean absolute errors a / b with its 95 % interval from resampling patients; seeds are averaged."""
    people = sorted(set(a[0].patient) & set(b[0].patient))
    sums = np.array([[_sum_of(runs, person, kind) for person in people] for runs in (a, b)])  # (2, people, 2)
    drawn = np.random.default_rng(0).integers(0, len(people), (repeats, len(people)))
    totals = sums[:, drawn].sum(2)  # (2, repeats, 2)
    ratios = (totals[0, :, 0] / totals[0, :, 1]) / (totals[1, :, 0] / totals[1, :, 1])
    whole = sums.sum(1)
    ratio = (whole[0, 0] / whole[0, 1]) / (whole[1, 0] / whole[1, 1])
    return float(ratio), *map(float, np.percentile(ratios, (2.5, 97.5)))


def _sum_of(runs: list[Errors], person: str, kind: str) -> tuple[float, int]:
    chosen = [np.abs(run.error[run.of(kind) & (run.patient == person)].astype(float)) for run in runs]
    return sum(float(c.sum()) for c in chosen), sum(len(c) for c in chosen)


def families(results: dict[str, Errors]) -> dict[str, list[Errors]]:
    """Seeds of one recipe together: "vgg-0", "vgg-1" become "vgg"."""
    found: dict[str, list[Errors]] = {}
    for name, errors in results.items():
        found.setdefault(name.rsplit("-", 1)[0], []).append(errors)
    return found


def comparison_rows(results: dict[str, Errors]) -> list[Row]:
    """The issue's bars and what stands beside them."""
    groups, shipped = families(results), results["shipped"]
    rows = [
        Row("shipped recipe, bone and airway, mean error", shipped.mean("bone and airway"), "mm", "<= 7.0"),
        Row("shipped recipe, bone and airway, 90th percentile",
            float(np.percentile(shipped.absolute("bone and airway"), 90)), "mm", "<= 16"),
        Row("shipped recipe, organs, mean error", shipped.mean("organ"), "mm", "<= 12.5"),
        Row("shipped recipe, all, mean error", shipped.mean("all"), "mm", "<= 9.5"),
    ]  # fmt: skip
    for kind in ("bone and airway", "organ"):
        coverage = 100 * shipped.coverage(kind)
        rows.append(Row(f"stated 90 % intervals that hold the height, {kind}", coverage, "%"))
    for name in groups:
        if name != "shipped":
            mean = float(np.mean([errors.mean("all") for errors in groups[name]]))
            rows.append(Row(f"{name}, all, mean error ({len(groups[name])} seeds)", mean, "mm"))
    for other, goal in (("vgg", "<= 0.51"), ("vgg_bn", "")):
        for best in ("shipped", "efficientnet_scratch"):
            ratio, low, high = paired(groups[best], groups[other])
            rows.append(Row(f"{best} / {other}, mean error", ratio, "", goal if best == "shipped" else ""))
            rows.append(
                Row(f"{best} / {other}, upper end of the interval", high, "", "<= 1" if best == "shipped" else "")
            )
    return rows


def recipe_table(results: dict[str, Errors]) -> str:
    """Markdown: a row per recipe with means, intervals and shares."""
    lines = ["| recipe | seeds | bone and airway, mm | organ, mm | all, mm (95 % interval) | all, slices of 3.5 mm "
             "| median | 90th percentile | within 10 mm | within a vertebra |", "|" + "---|" * 10]  # fmt: skip
    for name, runs in families(results).items():
        absolute = np.concatenate([run.absolute("all") for run in runs])
        people = np.concatenate([run.patient for run in runs])
        all_of = bootstrap_mean(list(absolute), list(people))
        means = [np.mean([run.mean(kind) for run in runs]) for kind in ("bone and airway", "organ")]
        lines.append(
            f"| {name} | {len(runs)} | {means[0]:.1f} | {means[1]:.1f} | {all_of.mean:.1f} ({all_of.low:.1f} to "
            f"{all_of.high:.1f}) | {all_of.mean / SLICE_MM:.2f} | {np.median(absolute):.1f} "
            f"| {np.percentile(absolute, 90):.1f} | {(absolute <= 10).mean():.0%} "
            f"| {(absolute <= VERTEBRA_MM).mean():.0%} |"
        )
    return "\n".join(lines) + "\n"


def landmark_table(errors: Errors) -> str:
    """Markdown: a row per landmark of one recipe."""
    lines = ["| landmark | kind | n | mean error, mm | median | bias |", "|---|---|---|---|---|---|"]
    for name in sorted(set(errors.landmark)):
        own = errors.landmark == name
        e = errors.error[own].astype(float)
        size = np.abs(e)
        lines.append(f"| {name} | {errors.kind[own][0]} | {own.sum()} | {size.mean():.1f} | {np.median(size):.1f} "
                     f"| {e.mean():+.1f} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def landmark_plot(results: dict[str, Errors], target: Path) -> None:
    """Share of landmarks within a distance, one curve per recipe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, runs in families(results).items():
        absolute = np.sort(np.concatenate([run.absolute("all") for run in runs]))
        share = np.arange(1, len(absolute) + 1) / len(absolute)
        axes.plot(absolute, 100 * share, label=name, lw=2.5 if name == "shipped" else 1.2)
    axes.set(xlim=(0, 80), ylim=(0, 100), xlabel="error of a landmark's height (mm)", ylabel="landmarks within (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(target, dpi=110)
    plt.close(figure)
