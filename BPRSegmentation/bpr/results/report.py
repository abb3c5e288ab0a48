"""The report: one HTML page that needs nothing else, for a person who wants to know what was found and how surely."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template

from bpr import __version__
from bpr.errors import Notice
from bpr.results.summary import RegionFound, RunResult, SegmentFound
from bpr.results.views import landmark_words
from bpr.segmentation.labels import structure_by_value

TEMPLATE = Path(__file__).with_name("report_template.html")
# Doubt up to this value -> (CSS class, words); doubt is the mean share of probability given to something else.
DOUBT_WORDS = ((0.15, "low", "low"), (0.3, "some", "some: look at its border"), (1.01, "high", "high: check it first"))
CAPTIONS = {
    "coronal": "Coronal view colored by score: 0 at the start of the pelvis, 100 at the end of the eyes.",
    "sagittal": "Sagittal view colored by score.",
    "curve": "Scores along the scan. Bars on the left: the regions.",
    "regions": "Regions. A percentage tells how much of an incomplete region the scan covers.",
    "segmentation": "Segmentation, on the sections that show most structures.",
}


def write_report(result: RunResult, folder: Path, pictures: dict[str, Path]) -> Path:
    """Write ``folder/report.html``: no script, no outside reference, the pictures inside.

    Args:
        pictures: what ``write_pictures`` returned; missing ones are left out.
    """
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=escape(result.volume.name),
        facts=_volume_facts(result),
        verdict=_verdict(result),
        warnings=_warnings(result),
        segments=_segments(result),
        regions=_regions(result),
        pictures=_pictures(pictures),
        run=_run_facts(result),
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def doubt_words(doubt: float) -> tuple[str, str]:
    """CSS class and words for a doubt of 0..1."""
    return next((style, words) for limit, style, words in DOUBT_WORDS if doubt <= limit)


def _volume_facts(result: RunResult) -> str:
    image = result.volume.image
    size = " × ".join(map(str, image.GetSize()))
    spacing = " × ".join(f"{step:.3g}" for step in image.GetSpacing())
    form = result.volume.source.get("format", "")
    return escape(f"{form} {size} voxels of {spacing} mm".strip()) + "."


def _verdict(result: RunResult) -> str:
    """The box at the top: can the results be used, why not, and what the scan covers."""
    if result.curve is None:
        return _box(
            "doubtful", "Not scored", "<p>The slices were not scored, so nothing is known about the body part.</p>"
        )
    verdict = result.curve.verdict
    titles = {
        "good": "The scan was understood: slice order, spacing and body part fit together.",
        "doubtful": "The results are doubtful: check them before use.",
        "refused": "This scan is out of scope: no results were made.",
    }
    return _box(
        verdict.quality, titles.get(verdict.quality, verdict.quality), _reasons(verdict.notices) + _coverage(result)
    )


def _coverage(result: RunResult) -> str:
    low, high = result.curve.verdict.coverage
    if low is None or high is None:
        return "<p>No known landmark lies inside this scan.</p>"
    names = [f"<b>{escape(landmark_words(name))}</b>" for name in (low, high)]
    z = result.curve.z_mm
    length = f"{abs(float(z[-1]) - float(z[0])):.0f} mm along the body"
    span = f"the landmark {names[0]}" if low == high else f"the landmarks from {names[0]} to {names[1]}"
    return f"<p>It covers {length} and holds {span}.</p>"


def _box(style: str, title: str, text: str) -> str:
    style = style if style in ("good", "doubtful", "refused") else "doubtful"
    return f'<section class="verdict {style}"><strong>{escape(title)}</strong>{text}</section>'


def _reasons(notices: list[Notice]) -> str:
    if not notices:
        return ""
    return "<ul>" + "".join(f"<li>{escape(notice.message)}</li>" for notice in notices) + "</ul>"


def _warnings(result: RunResult) -> str:
    """Remarks of reading and of the run; those of the verdict stand in its box."""
    notices = list(dict.fromkeys([*result.volume.notices, *result.notices]))
    return f"<section><h2>Remarks</h2>{_reasons(notices)}</section>" if notices else ""


def _table(head: list[str], rows: list[list[str]], numbers: tuple[int, ...]) -> str:
    """HTML table; cells are HTML already, columns in ``numbers`` are set flush right."""

    def line(cells: list[str], tag: str) -> str:
        styles = [' class="number"' if k in numbers else "" for k in range(len(cells))]
        return (
            "<tr>"
            + "".join(f"<{tag}{style}>{cell}</{tag}>" for cell, style in zip(cells, styles, strict=True))
            + "</tr>"
        )

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _segments(result: RunResult) -> str:
    """Volumes, the most doubtful first: what a person has to look at stands at the top."""
    if not result.segments:
        why = (
            "The segmentation ran, but found none of its structures in this scan: either the scan does not cover them, "
            "or it differs too much from the scans that the networks know."
            if result.segmentation is not None
            else "No segmentation was made in this run."
        )
        return f"<section><h2>Segments</h2><p>{why}</p></section>"
    rows = [_segment_row(segment) for segment in sorted(result.segments, key=_by_doubt)]
    table = _table(["Segment", "Volume (mL)", "Mean HU", "Doubt", ""], rows, (1, 2))
    note = (
        '<p class="soft">The most doubtful first. A structure that the edge of the scan cuts is larger than stated.</p>'
    )
    return f"<section><h2>Segments</h2>{note}{table}</section>"


def _by_doubt(segment: SegmentFound) -> tuple[int, float]:
    styles = [style for _, style, _ in DOUBT_WORDS]
    return -styles.index(doubt_words(segment.doubt)[0]), -segment.doubt


def _segment_row(segment: SegmentFound) -> list[str]:
    red, green, blue = (round(255 * channel) for channel in structure_by_value(segment.value).color)
    style, words = doubt_words(segment.doubt)
    volume = f"{segment.volume_ml:,.0f}" if segment.volume_ml >= 10 else f"{segment.volume_ml:.1f}"
    return [
        f'<span class="swatch" style="background: rgb({red}, {green}, {blue})"></span>{escape(segment.name)}',
        volume,
        f"{segment.mean_hu:.0f}".replace("-", "−"),
        f'<span class="level {style}">{escape(words)}</span> <span class="soft">{segment.doubt:.2f}</span>',
        "cut by the edge of the scan" if segment.at_edge else "",
    ]


def _regions(result: RunResult) -> str:
    if not result.regions:
        return (
            "<section><h2>Regions</h2><p>No body region was cut out: none was asked for, or the scan holds too little "
            "of each.</p></section>"
        )
    rows = [_region_row(region) for region in sorted(result.regions, key=lambda region: -region.z_range_mm[1])]
    head = ["Region", "Covered", "Scores", "Height (mm, superior)", "Crop (voxels)", "File"]
    return f"<section><h2>Regions</h2>{_table(head, rows, (1, 2, 3, 4))}</section>"


def _region_row(region: RegionFound) -> list[str]:
    low, high = region.z_range_mm
    file = f"<code>{escape(region.file)}</code>" if region.file else ""
    return [
        escape(region.name),
        f"{region.complete:.0%}",
        f"{region.score_range[0]:.0f} to {region.score_range[1]:.0f}".replace("-", "−"),
        f"{low:.0f} to {high:.0f}".replace("-", "−"),
        " × ".join(map(str, region.size)),
        file,
    ]


def _pictures(pictures: dict[str, Path]) -> str:
    rows = (("coronal", "curve"), ("segmentation",), ("regions", "sagittal"))
    sections = []
    for row in rows:
        figures = "".join(_figure(name, pictures[name]) for name in row if name in pictures)
        if figures:
            sections.append(f'<section><div class="pair">{figures}</div></section>')
    return "".join(sections)


def _figure(name: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    caption = escape(CAPTIONS[name])
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _run_facts(result: RunResult) -> str:
    seconds = [f"{stage} {value:.1f} s" for stage, value in result.seconds.items()]
    facts = {
        "Device": result.device,
        "Engine": result.engine,
        "Models": ", ".join(f"{role}: {name}" for role, name in result.bundles.items()),
        "Time": ", ".join(seconds),
        "Peak memory": f"{result.peak_memory_mb:,.0f} MB" if result.peak_memory_mb else "",
        "Source": str(result.volume.source.get("file", "")),
        "Program": f"bpr {__version__}",
    }
    if result.curve is not None:
        verdict = result.curve.verdict
        facts["Slices"] = (
            f"{len(result.curve.z_mm)}, every {verdict.stated_spacing_mm:.2f} mm as stated, "
            f"{verdict.implied_spacing_mm:.2f} mm by the anatomy; order {verdict.slice_order}"
        )
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
    return f"<section><h2>This run</h2><dl>{items}</dl></section>"
