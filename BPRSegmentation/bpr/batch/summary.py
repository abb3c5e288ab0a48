"""The page over a batch: states, failures by reason, distributions, outliers, and a table that leads to each report."""

from __future__ import annotations

import os
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from bpr import __version__
from bpr.batch.table import TISSUES, read_rows
from bpr.results.views import landmark_words
from bpr.segmentation.labels import label_table

TEMPLATE = Path(__file__).with_name("summary_template.html")
PAGE_NAME = "summary.html"
FEWEST, FAR = 20, 4.0  # values that a spread needs, and robust standard deviations that make an outlier
ROWS_SHOWN, OUTLIERS_SHOWN, LINKS_SHOWN = 2000, 200, 20
STATES = {"done": "done", "doubtful": "doubtful", "refused": "out of scope", "failed": "failed", "waiting": "waiting"}
MEASURES = {  # column -> (words, unit, logarithmic outliers)
    "score_low": ("lowest score", "", False), "score_high": ("highest score", "", False),
    "mm_per_unit": ("body size on the ruler", "mm per score", True), "seconds": ("time", "s", True),
    "peak_memory_mb": ("peak memory", "MB", True),
}  # fmt: skip
JUDGED = ("mm_per_unit",)  # scores of a head and of a pelvis differ rightly, a patient's size on the ruler hardly


@dataclass
class Overview:
    """What the page needs of all rows: counts, one array of numbers per measure, and the rows that it lists."""

    states: Counter = field(default_factory=Counter)
    reasons: dict = field(default_factory=lambda: defaultdict(list))
    numbers: dict = field(default_factory=lambda: defaultdict(lambda: array("d")))
    places: dict = field(default_factory=lambda: defaultdict(lambda: array("q")))  # row of each number
    links: list = field(default_factory=list)  # (id, report) per row
    shown: list = field(default_factory=list)


def write_summary(out: Path) -> Path:
    """Write ``summary.html`` from ``table.csv``: no outside reference, complete or not at all."""
    view = overview(read_rows(out))
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(out.name),
        version=escape(__version__),
        tiles=_tiles(view),
        failures=_failures(view),
        distributions=_distributions(view),
        outliers=_outlier_table(view),
        rows=_rows(view),
    )
    partial, target = out / f".{PAGE_NAME}.partial", out / PAGE_NAME
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def overview(rows) -> Overview:
    """Read all rows once. Organs that the edge of a scan cuts do not count among the volumes."""
    view = Overview()
    organs = [structure.id for structure in label_table()]
    names = [*MEASURES, *(f"{tissue}_cm2" for tissue in TISSUES)]
    for number, row in enumerate(rows):
        view.states[row["state"]] += 1
        view.links.append((row["id"], row["report"]))
        if row["state"] == "failed":
            reason = (row["error"] or "").replace(os.path.basename(row["input"]), "the file")
            view.reasons[(row["error_type"], reason)].append(number)
        for name in names:
            _take(view, name, row[name], number)
        for organ in organs:
            if not row[f"{organ}_at_edge"]:
                _take(view, f"{organ}_ml", row[f"{organ}_ml"], number)
        if len(view.shown) < ROWS_SHOWN:
            view.shown.append(row)
    return view


def _take(view: Overview, name: str, value: float | None, number: int) -> None:
    if value is not None:
        view.numbers[name].append(value)
        view.places[name].append(number)


def outliers(view: Overview) -> list[tuple[float, str, int, float, float]]:
    """(robust z, column, row, value, median), the farthest first; volumes and areas are compared on a log scale."""
    found = []
    for name in [*JUDGED, *(n for n in view.numbers if n.endswith(("_ml", "_cm2")))]:
        values = np.frombuffer(view.numbers[name]) if name in view.numbers else np.zeros(0)
        if len(values) < FEWEST:
            continue
        logs = np.log(np.maximum(values, 0.1))
        middle = np.median(logs)
        spread = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.02)
        z = (logs - middle) / spread
        for k in np.flatnonzero(np.abs(z) > FAR):
            found.append((float(z[k]), name, view.places[name][k], float(values[k]), float(np.exp(middle))))
    return sorted(found, key=lambda entry: -abs(entry[0]))


def _words(name: str) -> tuple[str, str]:
    """What a column is called, and its unit."""
    if name in MEASURES:
        return MEASURES[name][:2]
    if name.endswith("_cm2"):
        return name.removesuffix("_cm2").replace("_", " "), "cm²"
    organ = name.removesuffix("_ml")
    return next(structure.name for structure in label_table() if structure.id == organ), "mL"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}".replace("-", "−")


def _link(view: Overview, number: int) -> str:
    identifier, report = view.links[number]
    return f'<a href="{escape(report, quote=True)}">{escape(identifier)}</a>' if report else escape(identifier)


def _tiles(view: Overview) -> str:
    total = sum(view.states.values())
    tiles = [("all", "scans", total)] + [(s, words, view.states[s]) for s, words in STATES.items() if view.states[s]]
    return "".join(f'<div class="tile {style}"><b>{count:,}</b>{escape(words)}</div>' for style, words, count in tiles)


def _failures(view: Overview) -> str:
    if not view.reasons:
        return "<p>None.</p>"
    rows = []
    for (kind, reason), numbers in sorted(view.reasons.items(), key=lambda item: -len(item[1])):
        names = ", ".join(_link(view, number) for number in numbers[:LINKS_SHOWN])
        more = f" and {len(numbers) - LINKS_SHOWN:,} more" if len(numbers) > LINKS_SHOWN else ""
        why = f'{escape(reason)}<br><span class="soft">{escape(kind or "")}</span>'
        rows.append([f"{len(numbers):,}", why, names + more])
    return _table((("Scans", True), ("Reason", False), ("Which", False)), rows)


def _distributions(view: Overview) -> str:
    order = [*MEASURES, *(f"{s.id}_ml" for s in label_table()), *(f"{tissue}_cm2" for tissue in TISSUES)]
    figures = [_histogram(name, np.frombuffer(view.numbers[name])) for name in order if len(view.numbers[name]) > 1]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else "<p>Nothing was measured.</p>"


def _histogram(name: str, values: np.ndarray, width: int = 240, height: int = 78) -> str:
    """One small histogram as SVG, with its 5th, 50th and 95th percentile in words."""
    words, unit = _words(name)
    low, middle, high = np.percentile(values, [5, 50, 95])
    first, last = np.percentile(values, [0.5, 99.5])  # a single wild value must not flatten the rest
    counts, edges = np.histogram(np.clip(values, first, last), bins=24, range=(first, last + 1e-9))
    step, top = width / len(counts), max(counts.max(), 1)
    bars = ""
    for k, count in enumerate(counts):
        x, y, high_px = k * step, height - count / top * height, count / top * height
        tip = f"<title>{_number(edges[k])} to {_number(edges[k + 1])}: {count}</title>"
        bars += f'<rect x="{x:.1f}" y="{y:.1f}" width="{step - 1:.1f}" height="{high_px:.1f}">{tip}</rect>'
    place = (middle - first) / max(last - first, 1e-9) * width
    label = f"{escape(words)}{f' ({unit})' if unit else ''}"
    spread = f"median, {_number(low)} to {_number(high)} in 9 of 10, n {len(values):,}"
    caption = f'<b>{label}</b><br>{_number(middle)} <span class="soft">{spread}</span>'
    ends = f'<text x="0" y="{height + 12}">{_number(first)}</text>'
    ends += f'<text x="{width}" y="{height + 12}" text-anchor="end">{_number(last)}</text>'
    line = f'<line x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{height}"/>'
    picture = f'<svg viewBox="0 0 {width} {height + 14}" role="img" aria-label="{label}: histogram">'
    return f"<figure><figcaption>{caption}</figcaption>{picture}{bars}{line}{ends}</svg></figure>"


def _table(head: tuple[tuple[str, bool], ...], rows: list[list[str]], identifier: str = "") -> str:
    """HTML table of ready cells; ``head`` says of each column what it is called and whether it holds numbers."""

    def line(cells, tag: str) -> str:
        styles = [' class="number"' if number else "" for _, number in head]
        joined = (f"<{tag}{style}>{cell}</{tag}>" for cell, style in zip(cells, styles, strict=True))
        return f"<tr>{''.join(joined)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    name = f' id="{identifier}"' if identifier else ""
    top = line([words for words, _ in head], "th")
    return f'<div class="scroll"><table{name}><thead>{top}</thead><tbody>{body}</tbody></table></div>'


def _outlier_table(view: Overview) -> str:
    found = outliers(view)
    if not found:
        return f"<p>None among measures with at least {FEWEST} values.</p>"
    rows = []
    for z, name, number, value, middle in found[:OUTLIERS_SHOWN]:
        words, unit = _words(name)
        how = f"{value / middle:.2g} times the median" if value > middle else f"{value / middle:.0%} of the median"
        rows.append([_link(view, number), escape(words), f"{_number(value)} {unit}", _number(middle), how, f"{z:+.1f}"])
    note = f"The {OUTLIERS_SHOWN} farthest of {len(found):,}." if len(found) > OUTLIERS_SHOWN else ""
    head = (("Scan", False), ("Measure", False), ("Value", True), ("Median", True), ("", False), ("Robust SD", True))
    return f'<p class="soft">{note}</p>{_table(head, rows)}'


def _rows(view: Overview) -> str:
    """The table of all scans, or of the first ones where there are too many for a page."""
    total = sum(view.states.values())
    note = f"The first {ROWS_SHOWN:,} of {total:,}; all of them are in table.csv." if total > ROWS_SHOWN else ""
    words = (("Scan", False), ("State", False), ("Coverage", False), ("Scores", True), ("Organs", True),
             ("Seconds", True), ("Memory (MB)", True), ("Remarks", False))  # fmt: skip
    head = tuple((f'<button type="button">{word}</button>', number) for word, number in words)
    rows = [_row(view, number, row) for number, row in enumerate(view.shown)]
    search = '<input id="filter" type="search" placeholder="Filter by any word" aria-label="Filter the scans">'
    return f'<p class="soft">{note}</p>{search}{_table(head, rows, "scans")}'


def _row(view: Overview, number: int, row: dict) -> list[str]:
    ends = [landmark_words(row[name]) for name in ("coverage_low", "coverage_high") if row[name]]
    reach = " to ".join(ends)
    scores = f"{row['score_low']:.0f} to {row['score_high']:.0f}" if row["score_low"] is not None else ""
    remarks = row["error"] or (row["notices"] or "").replace(";", ", ").replace("_", " ")
    state = f'<span class="state {row["state"]}">{escape(STATES[row["state"]])}</span>'
    organs, seconds, memory = (
        "" if row[name] is None else form.format(row[name])
        for name, form in (("organs", "{}"), ("seconds", "{:.1f}"), ("peak_memory_mb", "{:.0f}"))
    )
    return [
        _link(view, number),
        state,
        escape(reach),
        scores.replace("-", "−"),
        organs,
        seconds,
        memory,
        escape(remarks),
    ]
