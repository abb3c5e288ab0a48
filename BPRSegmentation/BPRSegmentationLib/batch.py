"""Many cases through one ``bpr batch`` child: the same folder, results and resume as on the command line.

The folder that a person chooses holds ``volumes/`` (volumes of the scene, written out), ``cases.csv`` (what is worked
on) and ``results/``, which is a batch folder of the command line.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .export import Request, VolumeFile, can_be_input, cannot_write
from .process import ChildProcess
from .progress import Progress, State
from .run import WRITE_S
from .translation import _

WAITING, DONE, FAILED = "waiting", "done", "failed"
SCANS, FAILURES, MARK = "scans", "failed", "result.json"  # as in bpr.batch.scan, which takes long to import


@dataclass
class Case:
    """One line of the table. ``path`` is a file or DICOM folder; a volume of the scene gets its own when it is written.

    ``volume`` is a volume node, of the scene or of a sequence, or None.
    """

    name: str
    path: str = ""
    volume: object = None


class Batch:
    """The run over all cases; driven by ``poll()``, as a Run is. Results that are there already are kept: it resumes.

    ``start`` is called with the arguments of ``bpr`` and a folder for temporary files, and returns the child process.
    """

    def __init__(
        self,
        cases: list[Case],
        folder: Path,
        request: Request,
        start: Callable[[Sequence[str], Path], ChildProcess],
        composition: bool = False,
    ):
        """Begin; ``composition`` asks for muscle and fat at L3 too. Raises OSError: the folder cannot be written."""
        self.cases, self.folder, self.request, self._composition = cases, folder, request, composition
        self.progress = Progress(stage=_("Starting"))
        self._start, self._child, self._file = start, None, None
        self._to_write = [case for case in cases if case.volume is not None and not case.path]
        self._started = time.monotonic()
        self._scratch = Path(tempfile.mkdtemp(prefix="body-part-regression-"))
        (folder / "volumes").mkdir(parents=True, exist_ok=True)

    @property
    def running(self) -> bool:
        """Whether poll() must be called again."""
        return self.progress.state is State.RUNNING

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def poll(self) -> None:
        """Write the next piece of a volume, or take in what the child said."""
        if not self.running:
            return
        if self._child is None:
            try:
                self._prepare()
            except OSError as error:
                self.progress.error = cannot_write(self.folder, error)
                self._end(State.FAILED)
            return
        for event in self._child.poll():
            if event["event"] == "exit":
                if event["code"]:
                    self.progress.fail_unexpectedly(event["code"])
                self._end(State.FAILED if event["code"] else State.DONE)
            else:
                self.progress.take(event)

    def cancel(self, reason: str = "") -> None:
        """End the child's process tree; finished cases stay finished."""
        if self.running:
            if self._child:
                self._child.cancel()
            self.progress.error = reason
            self._end(State.CANCELLED)

    def _prepare(self) -> None:
        if self._file is None and self._to_write:
            self.progress.stage = _("Handing over {name}").format(name=self._to_write[0].name)
            self._file = VolumeFile(self._to_write[0].volume, self.folder / "volumes" / ".partial.nrrd", True)
        if self._file is not None:
            if self._file.write_some(WRITE_S):
                # Named after its content: the same volume has the same results, whatever scene it comes from.
                target = self._file.path.with_name(f"volume-{self._file.sum}.nrrd")
                os.replace(self._file.path, target)
                self._to_write.pop(0).path, self._file = str(target), None
            return
        listed = self.folder / "cases.csv"
        with open(listed, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path"], *([case.path] for case in self.cases)])
        arguments = batch_arguments(listed, self.folder / "results", self.request, self._composition)
        self._child = self._start(arguments, self._scratch)

    def _end(self, state: State) -> None:
        self.progress.state = state
        if self._file:
            self._file.close()
            self._file.path.unlink(missing_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)


def batch_arguments(listed: Path, results: Path, request: Request, composition: bool = False) -> list[str]:
    """The command line of ``bpr batch`` for a list of cases."""
    arguments = ["batch", str(listed), "--out", str(results), "--json", "--device", request.device]
    arguments += ["--engine", request.engine, "--step", str(request.step_mm)]
    arguments += ["--margin", str(request.margin_mm), "--tile", str(request.tile)]
    only = {("scores",): "scores", ("scores", "regions"): "regions", ("regions",): "regions"}.get(request.produce)
    if request.produce in (("segmentation",), ("scores", "segmentation")):
        only = "segmentation"
    arguments += ["--only", only] if only else []
    for option, names in (("--regions", request.regions), ("--organs", request.organs)):
        arguments += [option, ",".join(names)] if names is not None else []
    for name in request.bundles:
        arguments += ["--bundle", name]
    return arguments + (["--body-composition"] if composition else [])


def result_folder_of(case: Case, folder: Path) -> Path:
    """Where the results of a case lie, or will lie."""
    return folder / "results" / SCANS / _scan_id(case)


def state_of(case: Case, folder: Path | None) -> tuple[str, str]:
    """WAITING, DONE or FAILED, and a sentence for the failed; told by the folder alone, whatever happened since."""
    if not case.path or folder is None:
        return WAITING, ""
    if (result_folder_of(case, folder) / MARK).is_file():
        return DONE, ""
    try:
        record = folder / "results" / FAILURES / f"{_scan_id(case)}.json"
        failure = json.loads(record.read_text(encoding="utf-8"))
        return FAILED, f"{failure['message']} {failure['advice']}".strip()
    except (OSError, ValueError, KeyError):
        return WAITING, ""


def _scan_id(case: Case) -> str:
    from bpr.batch.inputs import scan_id

    path = Path(os.path.abspath(case.path))
    return scan_id(path, path.name)


def cases_of_scene(scene) -> list[Case]:
    """A case for each volume of the scene that a run could take, and for each frame of a sequence of volumes."""
    cases = []
    for sequence in _nodes(scene, "vtkMRMLSequenceNode"):
        for item in range(sequence.GetNumberOfDataNodes()):
            node = sequence.GetNthDataNode(item)
            if can_be_input(node):
                cases.append(Case(f"{sequence.GetName()} [{sequence.GetNthIndexValue(item)}]", volume=node))
    browsers = _nodes(scene, "vtkMRMLSequenceBrowserNode")
    for node in _nodes(scene, "vtkMRMLScalarVolumeNode"):
        frame = any(browser.IsProxyNodeID(node.GetID()) for browser in browsers)  # shown, but counted above
        if can_be_input(node) and not frame:
            cases.append(Case(node.GetName(), volume=node))
    return cases


def _nodes(scene, class_name: str) -> list:
    return [scene.GetNthNodeByClass(index, class_name) for index in range(scene.GetNumberOfNodesByClass(class_name))]


def cases_of_folder(folder: Path) -> list[Case]:
    """A case for each CT below a folder, as the command line finds them. Raises bpr's InputError when there is none."""
    from bpr.batch.inputs import find_scans

    scans, _left_out = find_scans([str(folder)], folder / "no results here")
    return [Case(Path(scan.path).name, path=scan.path) for scan in scans]


def cases_of_dicom(database) -> list[Case]:
    """A case for each CT series of Slicer's DICOM database."""
    cases = []
    for patient in database.patients():
        for study in database.studiesForPatient(patient):
            for series in database.seriesForStudy(study):
                files = database.filesForSeries(series)
                if files and database.fileValue(files[0], "0008,0060") == "CT":
                    cases.append(Case(database.descriptionForSeries(series) or _("CT series"), path=files[0]))
    return cases
