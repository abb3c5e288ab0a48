"""Tables and the plot of the study of masks."""

from __future__ import annotations

import numpy as np
from mask_runs import Result
from study import QUICK, RESULTS, Row

Found = dict[tuple[str, int], list[list[Result]]]
REFERENCE, MASK = "CT", "CT + mask"
CONTROLS = ("CT + coordinates", "CT + score", "CT + atlas", "CT + shuffled mask")
ALONE = ("template itself", "mask only", "outline only", "outline + mask")
ANYWHERE = ("anywhere: CT", "anywhere: CT + mask", "anywhere: CT + coordinates")
VARIANTS = {"anywhere": "crops anywhere", "not augmented": "not augmented", "longer": "five times the steps"}
GAIN_GOAL, ALL_GOAL, ALONE_GOAL, DISTANCE_GOAL = 4.3, -0.01, 0.77, 3.1
REPEATS = 2000


def by_person(subsets: list[list[Result]], value: str = "dice") -> dict[str, float]:
    """Person to the mean over organs and subsets of a measure; distances that do not exist are left out."""
    sums: dict[str, list[float]] = {}
    for results in subsets:
        for r in results:
            if getattr(r, value) is not None:
                sums.setdefault(r.person, []).append(getattr(r, value))
    return {person: float(np.mean(values)) for person, values in sums.items()}


def drawn_means(tables: list[dict[str, float]]) -> np.ndarray:
    """(tables, 1 + repeats) means over people: all of them, then people drawn with replacement, the same for each."""
    people = sorted(set.intersection(*(set(table) for table in tables)))
    values = np.array([[table[person] for person in people] for table in tables])
    drawn = np.random.default_rng(0).integers(0, len(people), (REPEATS, len(people)))
    return np.concatenate([values.mean(1, keepdims=True), values[:, drawn].mean(2)], 1)


def interval(draws: np.ndarray) -> tuple[float, float, float]:
    """The value over all people and the 95 % interval of the drawn ones."""
    return float(draws[0]), *map(float, np.percentile(draws[1:], (2.5, 97.5)))


def shared(found: Found, arms: list[str], count: int) -> list[list[list[Result]]]:
    """The subsets that all the arms have."""
    number = min(len(found[arm, count]) for arm in arms)
    return [found[arm, count][:number] for arm in arms]


def cases(count: int) -> str:
    """Words for a number of teaching cases."""
    return f"{count} case{'' if count == 1 else 's'}" if count else "all cases"


def gain_rows(found: Found) -> list[Row]:
    """What the mask channel gains, against the CT alone and against the controls, with intervals over people."""
    rows = []
    for count in [count for arm, count in found if arm == MASK]:
        plain, mask = drawn_means([by_person(subsets) for subsets in shared(found, [REFERENCE, MASK], count)])
        value, low, high = interval(100 * (mask / plain - 1) if count else mask - plain)
        name, unit = f"{cases(count)}: mask channel against CT alone", "%" if count else "Dice"
        rows += [Row(name, value, unit, f">= {GAIN_GOAL if count else ALL_GOAL}"),
                 Row(f"{name}, lower end", low, unit, ">= 0" if count else ""),
                 Row(f"{name}, upper end", high, unit)]  # fmt: skip
        for control in (arm for arm in CONTROLS if (arm, count) in found):
            other, mask = drawn_means([by_person(subsets) for subsets in shared(found, [control, MASK], count)])
            value, low, high = interval(mask - other)
            name = f"{cases(count)}: mask channel minus {control.removeprefix('CT + ')}"
            judged = ">= 0" if count and control in ("CT + coordinates", "CT + shuffled mask") else ""
            rows += [Row(name, value, "Dice"), Row(f"{name}, lower end", low, "Dice", judged),
                     Row(f"{name}, upper end", high, "Dice")]  # fmt: skip
        for variant, words in VARIANTS.items():
            pair = [f"{variant}: {REFERENCE}", f"{variant}: {MASK}"]
            if all((arm, count) in found for arm in pair):
                plain, mask = drawn_means([by_person(subsets) for subsets in shared(found, pair, count)])
                value, low, high = interval(100 * (mask / plain - 1))
                name = f"{cases(count)}, {words}: mask channel against CT alone"
                rows += [Row(name, value, "%"), Row(f"{name}, lower end", low, "%"),
                         Row(f"{name}, upper end", high, "%")]  # fmt: skip
    return rows


def arm_rows(found: Found) -> list[Row]:
    """Dice, surface Dice and distance of centroids of every arm; the bars of masks as the only input apply to all."""
    rows = []
    for (arm, count), subsets in found.items():
        judged = arm == "outline + mask" and not count
        goals = {"dice": f">= {ALONE_GOAL}", "distance_mm": f"<= {DISTANCE_GOAL}"} if judged else {}
        for value, words, unit in (("dice", "Dice", ""), ("nsd", "surface Dice at 3 mm", ""),
                                   ("distance_mm", "distance of centroids", "mm")):  # fmt: skip
            mean = float(np.mean(list(by_person(subsets, value).values())))
            rows.append(Row(f"{arm}, {cases(count)}: {words}", mean, unit, goals.get(value, "")))
    return rows


def write_tables(found: Found) -> None:
    """results/masks_arms.md (Dice with intervals by arm and count), masks_organs.md, and masks.png."""
    if QUICK:
        return
    counts = [count for arm, count in found if arm == REFERENCE]
    others = [f"{variant}: {arm}" for variant in list(VARIANTS)[1:] for arm in (REFERENCE, MASK, *CONTROLS)]
    known = (REFERENCE, MASK, *CONTROLS, *ALONE, *ANYWHERE, *others)
    arms = [arm for arm in known if any(name == arm for name, _ in found)]
    lines = ["| given to the network | " + " | ".join(cases(count) for count in counts) + " |",
             "|---|" + "---|" * len(counts)]  # fmt: skip
    curves: dict[str, list] = {}
    for arm in arms:
        cells = []
        for count in counts:
            if (arm, count) not in found:
                cells.append("")
                continue
            mean, low, high = interval(drawn_means([by_person(found[arm, count])])[0])
            curves.setdefault(arm, []).append((counts.index(count), mean, low, high))
            cells.append(f"{mean:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    (RESULTS / "masks_arms.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (RESULTS / "masks_organs.md").write_text("\n".join(_organ_lines(found, arms)) + "\n", encoding="utf-8")
    _draw(curves, [cases(count) for count in counts])


def _organ_lines(found: Found, arms: list[str]) -> list[str]:
    """Dice and distance by organ with 8 cases and with all."""
    organs = list(dict.fromkeys(r.organ for r in next(iter(found.values()))[0]))
    lines = ["| Dice (distance of centroids, mm) | " + " | ".join(organs) + " |", "|---|" + "---|" * len(organs)]
    for count in (8, 0):
        for arm in (arm for arm in arms if (arm, count) in found):
            cells = []
            for organ in organs:
                own = [[r for r in subset if r.organ == organ] for subset in found[arm, count]]
                dice, distance = (np.mean(list(by_person(own, value).values())) for value in ("dice", "distance_mm"))
                cells.append(f"{dice:.2f} ({distance:.1f})")
            lines.append(f"| {arm}, {cases(count)} | " + " | ".join(cells) + " |")
    return lines


def _draw(curves: dict[str, list], labels: list[str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    shift = np.linspace(-0.25, 0.25, len(curves))
    colors = plt.get_cmap("tab20")
    for k, (arm, points) in enumerate(curves.items()):
        x, mean, low, high = np.array(points).T
        bold = {"CT": {"color": "black", "lw": 2}, "CT + mask": {"color": "tab:red", "lw": 2}}
        style = bold.get(arm, {"lw": 1, "color": colors(k % 20)})
        line = "o--" if arm in ALONE else "o:" if arm in ANYWHERE else "o-"
        style |= {"fmt": line, "ms": 4, "capsize": 2, "label": arm}
        axes.errorbar(x + shift[k], mean, [mean - low, high - mean], **style)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="Dice, mean of six organs, 95 % interval", xlabel="teaching cases")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(RESULTS / "masks.png", dpi=120)
    plt.close(figure)
