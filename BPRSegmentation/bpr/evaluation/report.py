"""`bpr evaluate`: tables of what a bundle can do on validation cases, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bpr.compute.engines import open_engine
from bpr.errors import InputError
from bpr.evaluation.score import KINDS, evaluate_score
from bpr.evaluation.segmentation import dice_table, doubt_correlation, evaluate_segmentation
from bpr.models import Bundle, choose_bundles, find_bundle
from bpr.training.commands import labeled_cases
from bpr.training.dataset import Case, data_folder, landmark_observations, trunk_cases


def validation_cases(folder: Path) -> list[Case]:
    """Cases that never teach a bundle that ships: those whose licence keeps them out of training."""
    return [case for case in trunk_cases(folder) if case.use == "restricted"]


def score_numbers(bundle: Bundle, data: Path) -> dict:
    """Landmark errors by kind, Spearman correlations, verdicts on the validation cases."""
    result = evaluate_score(
        bundle, open_engine().predictor(bundle), validation_cases(data), landmark_observations(data)
    )
    numbers = {"cases": sorted(result.curves)}
    for kind in KINDS:
        estimate, p90 = result.landmark_error(kind)
        numbers[f"error of {kind} landmarks, mm"] = asdict(estimate) | {"p90": p90}
    correlations = list(result.spearman.values())
    numbers["spearman"] = {"median": float(np.median(correlations)), "worst": float(min(correlations))}
    numbers["verdicts"] = {name: curve.verdict.quality for name, curve in result.curves.items()}
    return numbers


def segmentation_numbers(bundles: list[Bundle], cases: list[Case]) -> dict:
    """Dice per structure with intervals, and the false-positive volume where a structure is absent."""
    engine, score = open_engine(), choose_bundles([])["score"]
    cache: dict[Bundle, object] = {}

    def load(bundle: Bundle):
        return cache.setdefault(bundle, engine.predictor(bundle))

    results = evaluate_segmentation(bundles, (score, engine.predictor(score)), load, cases)
    wrong = [r.false_ml for r in results if r.dice is None]
    correlation, pairs = doubt_correlation(results)
    return {
        "cases": sorted({r.case for r in results}),
        "dice": {name: asdict(estimate) for name, estimate in dice_table(results).items()},
        "false-positive ml where absent": {"mean": float(np.mean(wrong)) if wrong else None, "n": len(wrong)},
        "doubt against 1 - Dice": {"spearman": correlation, "n": pairs},
        "by case": [asdict(r) for r in results],
    }


def evaluate_bundle(kind: str, name: str, data: Path, out: Path | None, config: Path | None = None) -> dict:
    """Measure, print, and write JSON when asked to. "localized" means all regions' networks together.

    Args:
        config: the training configuration of a domain's bundle: it tells the cases, and which of them taught.
    """
    if kind == "segmentation" and name != "localized" and (config or find_bundle(name).role == "domain"):
        from bpr.evaluation.domains import domain_numbers

        return _told(domain_numbers(name, data, config), out)
    folder = data_folder(str(data))
    if kind == "score":
        bundle = find_bundle(name)
        if bundle.role != "score":
            raise InputError(f"{name} gives no scores.", "Use: bpr evaluate segmentation.")
        numbers = score_numbers(bundle, folder)
    elif name == "localized":
        trunk = [b for b in choose_bundles([]).values() if b.role == "region" and not b.facts.get("masked")]
        numbers = segmentation_numbers(trunk, validation_cases(folder))
    else:
        bundle = find_bundle(name)
        if bundle.role == "score":
            raise InputError(f"{name} is a score bundle.", "Use: bpr evaluate score.")
        if bundle.role not in ("region", "baseline"):
            raise InputError(f"{name} cannot be evaluated here: it is a model for {bundle.role.replace('_', ' ')}.",
                             "Its model card (bpr models show) has its numbers.")  # fmt: skip
        chosen = {"cases": "head_and_neck" if bundle.facts.get("masked") else "trunk"}
        numbers = segmentation_numbers([bundle], labeled_cases(folder, chosen, validation=True))
    return _told(numbers, out)


def _told(numbers: dict, out: Path | None) -> dict:
    """Print the numbers, and write them when asked to."""
    print(markdown(numbers))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return numbers


def markdown(numbers: dict) -> str:
    """The numbers as a Markdown table for the terminal and the model card."""
    rows = ["| measure | mean | 95 % interval | n |", "|---|---|---|---|"]
    estimates = {f"Dice, {name}": e for name, e in numbers.get("dice", {}).items()}
    estimates |= {name: e for name, e in numbers.items() if isinstance(e, dict) and "low" in e}
    for name, e in estimates.items():
        extra = f" (90th percentile {e['p90']:.1f})" if "p90" in e else ""
        digits = 2 if name.startswith("Dice") else 1
        interval = f"{e['low']:.{digits}f} to {e['high']:.{digits}f}"
        rows.append(f"| {name} | {e['mean']:.{digits}f}{extra} | {interval} | {e['n']} |")
    if "spearman" in numbers:
        s = numbers["spearman"]
        rows.append(f"| Spearman of raw score and height, scans over 100 mm | median {s['median']:.4f} "
                    f"| worst {s['worst']:.4f} | |")  # fmt: skip
    for name, gap in numbers.get("gap", {}).items():
        rows.append(f"| {name}: training minus test Dice | {gap:.3f} | | |")
    doubt = numbers.get("doubt against 1 - Dice")
    if doubt and doubt["n"] > 2:
        rows.append(f"| Spearman of shown doubt and 1 - Dice, over organs and cases | {doubt['spearman']:.2f} | "
                    f"| {doubt['n']} |")  # fmt: skip
    absent = numbers.get("false-positive ml where absent")
    if absent and absent["n"]:
        rows.append(f"| false-positive ml per absent structure | {absent['mean']:.1f} | | {absent['n']} |")
    return "\n".join(rows)
