"""`bpr body-composition INPUT --out DIR`: muscle and fat at L3, at another level, or between two."""

from __future__ import annotations

import argparse
from pathlib import Path

from bpr.job import print_event


def add_body_composition(commands) -> None:
    """Register the command."""
    one = commands.add_parser("body-composition", help="measure muscle and fat at L3, another level, or between two")
    one.add_argument("input", help="NIfTI, NRRD, MetaImage, a DICOM file or a folder of DICOM")
    one.add_argument("--out", required=True, help="folder for the results; an earlier result there is replaced")
    one.add_argument("--level", default="L3", help="T12 to L5; the middle of that vertebra (default L3)")
    one.add_argument("--from", dest="upper", metavar="LEVEL", help="upper level of a span, such as T12")
    one.add_argument("--to", dest="lower", metavar="LEVEL", help="lower level of a span, such as L5")
    one.add_argument("--height", type=float, metavar="CM", help="the person's height, for the muscle index at L3")
    one.add_argument("--slab", type=float, default=10.0, metavar="MM", help="thickness of the slab at a level")
    one.add_argument("--bundle", action="append", default=[], metavar="NAME", help="use this model (repeatable)")
    one.add_argument("--device", default="auto")
    one.add_argument("--engine", default="auto")
    one.add_argument("--threads", type=int, metavar="N", help="use so many threads (default: all cores)")
    one.add_argument("--json", action="store_true", help="print JSON lines")
    one.set_defaults(action=_run)


def _run(options: argparse.Namespace) -> None:
    from bpr.compute.threads import limit_threads

    if options.threads and options.threads > 0:
        limit_threads(options.threads)
    from bpr.body_composition.run import run_body_composition
    from bpr.terminal import ProgressBar

    if options.json:
        run_body_composition(options, print_event)
        return
    with ProgressBar() as bar:
        found = run_body_composition(options, bar.show)
    _print(found, Path(options.out))


def _print(found, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from bpr.body_composition.tissues import TISSUES

    console = Console(highlight=False)
    console.print(
        f"[bold]{found.level.name}[/] at {found.level.z_mm:.0f} mm (± {found.level.sd_mm:.0f}), {found.state}"
    )
    if found.tissues:
        table = Table("tissue", "cm²", "mean HU")
        for tissue, value in zip(TISSUES, found.tissues, strict=True):
            table.add_row(tissue.name, f"{value.area_cm2:.1f}", f"{value.mean_hu:.0f}")
        console.print(table)
    if found.muscle_index:
        console.print(f"skeletal muscle index {found.muscle_index:.1f} cm²/m²")
    for notice in found.notices:
        console.print(f"  [yellow]note[/] {notice.message}")
    console.print(f"Results: {out}", soft_wrap=True)
