"""The table of a batch: one row per scan, derived from the result folders and the records of failure."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bpr.batch.inputs import Scan
from bpr.batch.scan import Plan, read_failure
from bpr.results.folder import MARK
from bpr.segmentation.labels import label_table

CSV_NAME, PARQUET_NAME = "table.csv", "table.parquet"
ROWS_AT_ONCE = 5000
FACTS = {
    "id": str, "input": str, "state": str, "error": str, "advice": str, "error_type": str, "quality": str,
    "coverage_low": str, "coverage_high": str, "score_low": float, "score_high": float, "mm_per_unit": float,
    "slice_order": str, "stated_spacing_mm": float, "implied_spacing_mm": float, "format": str, "columns": int,
    "rows": int, "slices": int, "regions": str, "organs": int, "most_doubtful": str, "notices": str, "seconds": float,
    "peak_memory_mb": float, "engine": str, "device": str, "report": str,
}  # fmt: skip
TISSUES = ("skeletal_muscle", "subcutaneous_fat", "visceral_fat", "intermuscular_fat")
COMPOSITION = {
    "composition": str, "composition_notices": str, "level_z_mm": float, "level_sd_mm": float,
    **{f"{tissue}_cm2": float for tissue in TISSUES}, **{f"{tissue}_hu": float for tissue in TISSUES},
}  # fmt: skip


def columns() -> dict[str, type]:
    """Name and type of every column: facts, then per structure mL, HU, doubt and "cut by the edge", then tissues."""
    organs = {}
    for structure in label_table():
        organs |= {f"{structure.id}_ml": float, f"{structure.id}_hu": float, f"{structure.id}_doubt": float,
                   f"{structure.id}_at_edge": int}  # fmt: skip
    return FACTS | organs | COMPOSITION


def row_of(scan: Scan, plan: Plan) -> dict:
    """The row of one scan; its state is done, doubtful, refused (out of scope), failed, or waiting (not yet run)."""
    row = {"id": scan.id, "input": scan.path, "state": "waiting"}
    folder = plan.folder(scan)
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        failure = read_failure(scan, plan)
        if failure:
            row |= {"state": "failed", "error": failure["message"], "advice": failure["advice"],
                    "error_type": failure["type"]}  # fmt: skip
        return row
    return row | _facts(content, folder, plan) | _volumes(content) | _composition(content)


def _facts(content: dict, folder: Path, plan: Plan) -> dict:
    verdict, size = content["verdict"], content["volume"]["size"]
    scores = content.get("score_range") or (None, None)
    low, high = content["coverage"] or (None, None)
    segments = content["segments"]
    report = folder / "report.html"
    state = {"good": "done"}.get(verdict["quality"], verdict["quality"])
    return {
        "state": state, "quality": verdict["quality"], "coverage_low": low, "coverage_high": high,
        "score_low": scores[0], "score_high": scores[1], "mm_per_unit": content["mm_per_unit"],
        "slice_order": verdict["slice_order"], "stated_spacing_mm": verdict["stated_spacing_mm"],
        "implied_spacing_mm": verdict["implied_spacing_mm"], "format": content["volume"]["source"].get("format"),
        "columns": size[0], "rows": size[1], "slices": size[2],
        "regions": ";".join(region["name"] for region in content["regions"]), "organs": len(segments),
        "most_doubtful": max(segments, key=lambda s: s["doubt"])["id"] if segments else None,
        "notices": ";".join(notice["code"] for notice in content["notices"]),
        "seconds": round(sum(content["seconds"].values()), 3), "peak_memory_mb": content["peak_memory_mb"],
        "engine": content["engine"], "device": content["device"],
        "report": report.relative_to(plan.out).as_posix() if "report.html" in content["files"] else None,
    }  # fmt: skip


def _volumes(content: dict) -> dict:
    cells = {}
    for segment in content["segments"]:
        name = segment["id"]
        cells |= {f"{name}_ml": segment["volume_ml"], f"{name}_hu": segment["mean_hu"],
                  f"{name}_doubt": segment["doubt"], f"{name}_at_edge": int(segment["at_edge"])}  # fmt: skip
    return cells


def _composition(content: dict) -> dict:
    found = content.get("body_composition")
    if not found:
        return {}
    cells = {"composition": found["state"], "level_z_mm": found["z_mm"], "level_sd_mm": found["sd_mm"],
             "composition_notices": ";".join(notice["code"] for notice in found["notices"])}  # fmt: skip
    for tissue, values in found["tissues"].items():
        cells |= {f"{tissue}_cm2": values["area_cm2"], f"{tissue}_hu": values["mean_hu"]}
    return cells


def write_tables(scans: Iterable[Scan], plan: Plan) -> list[Path]:
    """``table.csv`` and, with pyarrow, ``table.parquet``; each replaces the earlier one as a whole."""
    out, names = Path(plan.out), columns()
    written = [out / CSV_NAME] + ([out / PARQUET_NAME] if importlib.util.find_spec("pyarrow") else [])
    partial = [path.with_name(f".{path.name}.partial") for path in written]
    try:
        with open(partial[0], "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(names), restval="", lineterminator="\n")
            table.writeheader()
            parquet = _Parquet(partial[1], names) if len(partial) > 1 else None
            try:
                for block in _blocks((row_of(scan, plan) for scan in scans), ROWS_AT_ONCE):
                    table.writerows(block)
                    if parquet:
                        parquet.write(block)
            finally:
                if parquet:
                    parquet.close()
        for source, target in zip(partial, written, strict=True):
            os.replace(source, target)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
    return written


def _blocks(rows: Iterator[dict], size: int) -> Iterator[list[dict]]:
    block = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


class _Parquet:
    """A Parquet file that grows by blocks of rows."""

    def __init__(self, path: Path, names: dict[str, type]):
        import pyarrow
        from pyarrow import parquet

        kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
        self._arrow = pyarrow
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in names.items()])
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, rows: list[dict]) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def read_rows(out: Path) -> Iterator[dict]:
    """The rows of ``table.csv`` with numbers as numbers and None for empty cells."""
    names = columns()
    with open(out / CSV_NAME, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name: names[name](value) if value != "" else None for name, value in row.items()}
