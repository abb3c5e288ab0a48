"""The command as a function: read, score, measure, write a result folder complete or not at all."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from bpr import __version__
from bpr.body_composition.files import write_composition
from bpr.body_composition.job import (
    ROLE,
    VERTEBRAE,
    Composition,
    CompositionRequest,
    composition_bundles,
    facts,
    measure_composition,
)
from bpr.compute.engines import open_engine
from bpr.errors import InputError
from bpr.models import choose_bundles
from bpr.results.files import write_json
from bpr.results.folder import MARK, result_folder
from bpr.scoring.inference import score_volume
from bpr.volume import read_volume

STAGES = {"reading": (0.1, "Reading the volume"), "scoring": (0.3, "Scoring the slices"),
          "measuring": (0.8, "Measuring muscle and fat"), "writing": (0.95, "Writing the results")}  # fmt: skip


def run_body_composition(options: argparse.Namespace, emit) -> Composition:
    """Measure one scan; ``options`` are those of the command.

    Raises:
        InputError and its kinds: nothing has been written then.
    """
    request = CompositionRequest(options.level, options.upper, options.lower, options.height, options.slab)
    request.check()
    own, bundles = composition_bundles(options.bundle), choose_bundles(options.bundle)
    if "score" not in bundles:
        raise InputError("No model for 'score' is installed.", "Install one with: bpr models import FILE.")

    def stage(name: str) -> None:
        fraction, text = STAGES[name]
        emit({"event": "stage", "name": name, "text": text})
        emit({"event": "progress", "fraction": fraction, "done": 0, "total": 1, "unit": "steps", "remaining_s": None})

    with result_folder(Path(options.out)) as folder:
        engine = open_engine(options.engine, options.device, options.threads)
        stage("reading")
        volume = read_volume(options.input)
        stage("scoring")
        curve = score_volume(volume, bundles["score"], engine.predictor(bundles["score"]))
        stage("measuring")
        predict = {role: engine.predictor(bundle) for role, bundle in own.items()}
        found = measure_composition(volume, curve, predict[ROLE], predict.get(VERTEBRAE), request)
        stage("writing")
        write_composition(found, volume, folder)
        notices = [*volume.notices, *curve.verdict.notices, *found.notices]
        for notice in notices:
            emit({"event": "warning", "code": notice.code, "message": notice.message})
        used = {slot: f"{b.name} {b.version}" for slot, b in ({"score": bundles["score"]} | own).items()}
        content = {"version": __version__, "volume": {"name": volume.name, "source": volume.source},
                   "verdict": asdict(curve.verdict), "request": asdict(request), ROLE: facts(found),
                   "notices": [asdict(notice) for notice in notices], "engine": engine.name, "device": engine.device,
                   "bundles": used, "files": sorted(file.name for file in folder.iterdir())}  # fmt: skip
        write_json(folder / MARK, content)
    emit({"event": "result", "folder": str(Path(options.out).absolute()), "summary": content})
    return found
