"""The main job, for the command line and for Slicer alike; as a child process: ``python -m bpr.job JOB.json``.

The child prints a JSON object per line: stage, progress, metric, warning, result, error. It exits 0 only after result.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from bpr.errors import BPRError, Cancelled, InputError, MemoryShortage, Notice

PRODUCTS = ("scores", "regions", "segmentation", "report", "scene")
# Share of the time that each stage usually takes; together they make one progress bar.
STAGES = {"reading": (0.08, "Reading the volume"), "scoring": (0.17, "Scoring the slices"),
          "regions": (0.02, "Finding the regions"), "segmenting": (0.40, "Segmenting"),
          "writing": (0.15, "Writing the results"), "report": (0.12, "Drawing the report"),
          "scene": (0.06, "Building the scene")}  # fmt: skip
Emit = Callable[[dict], None]
Extend = Callable[..., dict]


@dataclass(frozen=True)
class JobRequest:
    """What is asked for. ``regions`` and ``organs`` None mean all; ``bundles`` are names that replace defaults."""

    input: str
    out: str
    produce: tuple[str, ...] = PRODUCTS
    regions: list[str] | None = None
    organs: list[str] | None = None
    bundles: list[str] = field(default_factory=list)
    device: str = "auto"
    engine: str = "auto"
    step_mm: float = 2.5
    margin_mm: float = 0.0  # added to both ends of each region's crop
    threads: int | None = None  # of the engine; None: as many as it likes
    tile: int = 0  # longest edge, in voxels, of what a network sees at once; 0 is the bundle's own

    @classmethod
    def from_json(cls, path: Path) -> JobRequest:
        """Read a job file. Raises InputError when it is not one."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"The job file {path} cannot be read: {error}.", "Write it anew.") from None
        known = {f.name for f in fields(cls)}
        unknown = [name for name in content if name not in known] if isinstance(content, dict) else ["?"]
        if unknown or "input" not in content or "out" not in content:
            raise InputError(f"The job file {path} is malformed (fields: {', '.join(unknown) or 'input, out'}).",
                             f"Known fields: {', '.join(sorted(known))}.")  # fmt: skip
        content = {name: value for name, value in content.items() if value is not None}
        wrong = [name for name, value in content.items() if not _fits(name, value)]
        if wrong:
            raise InputError(f"The job file {path} is malformed (wrong kind of value: {', '.join(wrong)}).",
                             "Lists hold names, sizes and counts are numbers, everything else is text.")  # fmt: skip
        return cls(**content | {"produce": tuple(content.get("produce", PRODUCTS))})

    def check(self) -> None:
        """Raises InputError for products, regions, organs or steps that do not exist, before anything is read."""
        from bpr.regions import select_regions
        from bpr.segmentation.labels import label_table

        for product in self.produce:
            if product not in PRODUCTS:
                raise InputError(f"There is no product {product!r}.", f"Products: {', '.join(PRODUCTS)}.")
        select_regions(self.regions)
        known = [structure.id for structure in label_table()]
        for organ in self.organs or ():
            if organ not in known:
                raise InputError(f"There is no organ {organ!r}.", f"Organs: {', '.join(known)}.")
        if not 0.5 <= self.step_mm <= 8:
            raise InputError(f"A slice step of {self.step_mm} mm is not possible.", "Choose 0.5 to 8 mm.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads can do nothing.", "Choose 1 or more.")
        if not 0 <= self.margin_mm <= 200:
            raise InputError(f"A margin of {self.margin_mm} mm is not possible.", "Choose 0 to 200 mm.")
        if self.tile and (self.tile % 16 or not 32 <= self.tile <= 256):
            raise InputError(f"A tile of {self.tile} voxels is not possible.", "Choose a multiple of 16, 32 to 256.")


def _fits(name: str, value: object) -> bool:
    """Whether a field of a job file has the type that JobRequest expects."""
    if name in ("produce", "regions", "organs", "bundles"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if name in ("tile", "threads"):
        return isinstance(value, int)
    return isinstance(value, (int, float) if name in ("step_mm", "margin_mm") else str)


class Progress:
    """Turns stages and counts into events with an overall fraction and an estimate of the time left."""

    def __init__(self, emit: Emit, produce: tuple[str, ...], stages: tuple[str, ...] = tuple(STAGES)):
        self._emit = emit
        skipped = {"segmenting": "segmentation", "report": "report", "scene": "scene"}
        names = [name for name in stages if name not in skipped or skipped[name] in produce]
        total = sum(STAGES[name][0] for name in names)
        self._share = {name: STAGES[name][0] / total for name in names}
        self._done, self._stage, self._started = 0.0, "", time.monotonic()
        self._stage_started, self._last = self._started, 0.0
        self.seconds: dict[str, float] = {}

    def stage(self, name: str) -> None:
        """Begin a stage; the one before is complete."""
        self.finish_stage()
        self._stage, self._stage_started = name, time.monotonic()
        self._emit({"event": "stage", "name": name, "text": STAGES[name][1]})
        self._report(0, 1, "steps")

    def finish_stage(self) -> None:
        """Account for the stage that is running."""
        if self._stage:
            self.seconds[self._stage] = time.monotonic() - self._stage_started
            self._done += self._share[self._stage]
            self._stage = ""

    def count(self, unit: str) -> Callable[[int, int], None]:
        """A function (done, total) that reports the running stage's progress, at most ten times a second."""

        def report(done: int, total: int) -> None:
            if done >= total or time.monotonic() - self._last > 0.1:
                self._report(done, total, unit)

        return report

    def _report(self, done: int, total: int, unit: str) -> None:
        self._last = time.monotonic()
        fraction = min(1.0, self._done + self._share[self._stage] * done / max(total, 1))
        elapsed = self._last - self._started
        remaining = round(elapsed * (1 - fraction) / fraction, 1) if fraction > 0.05 else None
        self._emit({"event": "progress", "fraction": round(fraction, 4), "done": done, "total": total, "unit": unit,
                    "remaining_s": remaining})  # fmt: skip


def run_job(request: JobRequest, emit: Emit = lambda event: None, engine=None, extend: Extend | None = None):
    """Run the main job; returns the RunResult whose files lie in ``request.out``.

    Args:
        engine: one that is open already, for callers that run many scans; else the request's is opened.
        extend: writes more files into the folder before it is renamed into place, and returns entries for
            ``result.json``; called with the RunResult, the folder and the engine.

    Raises:
        InputError and its kinds, Cancelled: nothing has been written then.
    """
    from bpr.compute.engines import open_engine
    from bpr.compute.memory import peak_mb
    from bpr.domains.run import domain_bundles, run_domain
    from bpr.models import choose_bundles
    from bpr.results.files import all_notices, summary, write_json
    from bpr.results.folder import MARK, result_folder
    from bpr.results.scene import SceneProcess
    from bpr.volume import read_volume

    if of_domains := domain_bundles(request.bundles):
        return run_domain(request, of_domains, emit, engine)
    request.check()
    bundles = choose_bundles(request.bundles)
    progress = Progress(emit, request.produce)
    with (
        result_folder(Path(request.out)) as folder,
        SceneProcess() if "scene" in request.produce else nullcontext() as scene,
    ):
        engine = engine or open_engine(request.engine, request.device, request.threads)
        progress.stage("reading")
        volume = read_volume(request.input)
        if scene:
            scene.show(volume.image)
        result = _analyze(request, volume, bundles, engine, progress)
        for notice in all_notices(result):
            emit({"event": "warning", "code": notice.code, "message": notice.message})
        result = _write(request, result, folder, scene, progress)
        added = extend(result, folder, engine) if extend else {}
        progress.finish_stage()
        result = replace(result, seconds=progress.seconds, peak_memory_mb=peak_mb(), folder=Path(request.out))
        content = summary(result) | {"threads": request.threads} | added | {"files": _files(folder)}
        write_json(folder / MARK, content)
    emit({"event": "result", "folder": str(Path(request.out).absolute()), "summary": content})
    return result


def _analyze(request: JobRequest, volume, bundles, engine, progress: Progress):
    """Everything that is computed: curve, regions, segmentation."""
    from bpr.regions import find_regions
    from bpr.results.summary import RunResult
    from bpr.scoring.inference import score_volume

    progress.stage("scoring")
    score_bundle = _bundle_for("score", bundles)
    curve = score_volume(
        volume, score_bundle, engine.predictor(score_bundle), request.step_mm, progress.count("slices")
    )
    progress.stage("regions")
    usable = curve.verdict.quality != "refused" and curve.verdict.slice_order != "reversed"
    regions = find_regions(volume, curve, request.regions, request.margin_mm) if usable else []
    used = {"score": f"{score_bundle.name} {score_bundle.version}"}
    result = RunResult(volume, curve, regions, device=engine.device, engine=engine.name, bundles=used)
    if "segmentation" in request.produce:
        progress.stage("segmenting")
        if usable:
            return _segment(request, result, bundles, engine, progress)
        text = "Regions and organs were not computed, because the scores of this scan cannot be trusted."
        result = replace(result, notices=[Notice("not_segmented", text)])
    return result


def _segment(request: JobRequest, result, bundles, engine, progress: Progress):
    """Add the segmentation to a result; without any organ in reach a notice says so."""
    import math

    from bpr.regions import network_windows, structure_heights
    from bpr.results.segments import found_segments
    from bpr.segmentation.inference import segment_volume
    from bpr.segmentation.labels import label_table

    wanted = [s.value for s in label_table() if request.organs is None or s.id in request.organs]
    if any(bundles.get("baseline") and name == bundles["baseline"].name for name in request.bundles):
        windows = {bundles["baseline"]: (-math.inf, math.inf)}
    else:
        networks = [bundle for bundle in bundles.values() if bundle.role == "region"]
        windows = network_windows(networks, result.curve, [region.name for region in result.regions], request.margin_mm)
    try:
        segmentation = segment_volume(
            result.volume, windows, engine.predictor, wanted, progress.count("tiles"), request.tile,
            result.curve.quarter_turns, structure_heights(result.curve)
        )  # fmt: skip
    except MemoryError:
        raise MemoryShortage("The segmentation ran out of memory.",
                             "Close other programs, or choose fewer regions.") from None  # fmt: skip
    segments = found_segments(result.volume.image, segmentation)
    used = result.bundles | {bundle.slot: f"{bundle.name} {bundle.version}" for bundle in windows}
    notices = (
        [] if segments else [Notice("no_organs", "None of the organs that were asked for was found in this scan.")]
    )
    return replace(result, segments=segments, segmentation=segmentation.labels, notices=notices, bundles=used)


def _bundle_for(slot: str, bundles):
    if slot not in bundles:
        raise InputError(f"No model for {slot!r} is installed.", "Install one with: bpr models import FILE.")
    return bundles[slot]


def _write(request: JobRequest, result, folder: Path, scene, progress: Progress):
    """Write all products into the folder; the scene, which shows no crops, is built while those and the report are."""
    from bpr.results.files import write_crops, write_regions, write_scores, write_segmentation
    from bpr.results.folder import check_space

    progress.stage("writing")
    voxels = result.volume.image.GetNumberOfPixels()
    check_space(folder, voxels * 4 + 20 * 2**20)
    write_scores(result, folder)
    if "regions" in request.produce:
        result = replace(result, regions=write_regions(result, folder))
    if result.segmentation is not None:
        write_segmentation(result, folder)
    if scene:
        scene.write(folder)
    if "regions" in request.produce:
        write_crops(result, folder)
    if "report" in request.produce:
        from bpr.compute.memory import peak_mb
        from bpr.results.pictures import write_pictures
        from bpr.results.report import write_report

        progress.stage("report")
        so_far = replace(result, seconds=dict(progress.seconds), peak_memory_mb=peak_mb())
        write_report(so_far, folder, write_pictures(so_far, folder))
    if scene:
        progress.stage("scene")
        notice = scene.finish()
        if notice:
            result = replace(result, notices=[*result.notices, notice])
    return result


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def explain(error: BaseException) -> tuple[int, dict]:
    """Exit code and error event of an exception; what is our fault leaves its traceback in a file."""
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled("Cancelled.")
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "bad allocation" in str(error):
        error = MemoryShortage("There is not enough memory for this scan.", "Close other programs or crop the scan.")
    details = None
    if not isinstance(error, BPRError):
        text = "".join(traceback.format_exception(error))
        with tempfile.NamedTemporaryFile(
            "w", prefix="bpr-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
            details = file.name
        error = BPRError(f"Something went wrong in the program: {type(error).__name__}: {error}.",
                         f"Please report it with the details in {details}.")  # fmt: skip
    return error.exit_code, {"event": "error", "type": type(error).__name__, "message": error.message,
                             "advice": error.advice, "details_file": details}  # fmt: skip


def cancel_on_terminate() -> None:
    """SIGTERM ends a run as Ctrl-C does: through the exception that removes what is half written."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def print_event(event: dict) -> None:
    """One event as one line of JSON on standard output."""
    from bpr.results.files import plain

    print(json.dumps(event, default=plain), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the child process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    cancel_on_terminate()
    try:
        if len(arguments) != 1:
            raise InputError("Give exactly one job file.", "python -m bpr.job JOB.json")
        run_job(JobRequest.from_json(Path(arguments[0])), print_event)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return Cancelled.exit_code
    except BaseException as error:  # noqa: BLE001 - the last place where an error can be put into words
        code, event = explain(error)
        print_event(event)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
