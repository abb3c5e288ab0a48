"""`bpr run` with a domain's bundle: segmentation without scores, on whatever modality the bundle says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.domains.definition import AIR_HU, Domain
from bpr.errors import InputError, Notice
from bpr.models import Bundle, find_bundle
from bpr.results.summary import RunResult, SegmentFound
from bpr.segmentation.cleanup import kept_parts
from bpr.segmentation.windows import Predictor, count_tiles, predict_grid
from bpr.volume import Volume, canonical, read_volume

CT_ONLY = "Scores, regions, the report and the scene are made for CT only; this model gives a segmentation."


def domain_bundles(names: list[str]) -> list[Bundle]:
    """The requested bundles when they are domains' bundles, else nothing. Raises InputError for a mixture."""
    found = [find_bundle(name) for name in names]
    chosen = [bundle for bundle in found if bundle.role == "domain"]
    if chosen and len(chosen) != len(found):
        raise InputError("Models of a domain cannot be mixed with the models of body regions.",
                         "Run them one after another.")  # fmt: skip
    return chosen


def run_domain(request, bundles: list[Bundle], emit: Callable[[dict], None], engine=None) -> RunResult:
    """Segment with a domain's bundle; of several the one whose domain is nearest, with a warning.

    Raises:
        InputError and its kinds: nothing has been written then.
    """
    from bpr.compute.engines import open_engine
    from bpr.compute.memory import peak_mb
    from bpr.job import Progress
    from bpr.results.files import summary, write_json, write_segmentation
    from bpr.results.folder import MARK, result_folder

    _check(request, bundles)
    progress = Progress(emit, ("segmentation",), ("reading", "segmenting", "writing"))
    with result_folder(Path(request.out)) as folder:
        engine = engine or open_engine(request.engine, request.device, request.threads)
        progress.stage("reading")
        volume = read_volume(request.input, bundles[0].facts["modality"])
        bundle, notices = choose_domain(volume, bundles)
        progress.stage("segmenting")
        domain = Domain.from_json(bundle.facts["domain"])
        labels, segments = segment_domain(volume, bundle, engine.predictor(bundle), progress.count("tiles"))
        if set(request.produce) - {"segmentation"}:
            notices.append(Notice("ct_only", CT_ONLY))
        if not segments:
            notices.append(Notice("no_organs", f"None of the structures of {bundle.name} was found in this scan."))
        result = RunResult(volume, None, [], segments, labels, notices, engine.device, engine.name,
                           {"domain": f"{bundle.name} {bundle.version}"})  # fmt: skip
        for notice in [*volume.notices, *notices]:
            emit({"event": "warning", "code": notice.code, "message": notice.message})
        progress.stage("writing")
        by_value = {structure.value: structure for structure in domain.structures}
        write_segmentation(result, folder, by_value.__getitem__)
        progress.finish_stage()
        result = replace(result, seconds=progress.seconds, peak_memory_mb=peak_mb(), folder=Path(request.out))
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        content = summary(result) | {"threads": request.threads, "files": files}
        write_json(folder / MARK, content)
    emit({"event": "result", "folder": str(Path(request.out).absolute()), "summary": content})
    return result


def _check(request, bundles: list[Bundle]) -> None:
    """What cannot be had of a domain's bundle is refused before anything is read."""
    if "segmentation" not in request.produce:
        raise InputError(f"{bundles[0].name} gives no scores and no regions.", "Use --only segmentation, or no bundle.")
    if request.regions or request.organs:
        raise InputError(f"{bundles[0].name} knows no regions and always gives all its structures.",
                         "Leave --regions and --organs out.")  # fmt: skip
    if len({bundle.facts["modality"] for bundle in bundles}) > 1:
        raise InputError("The models are for different modalities.", "Name models of the scan's modality only.")


def choose_domain(volume: Volume, bundles: list[Bundle]) -> tuple[Bundle, list[Notice]]:
    """The bundle whose domain the scan's features resemble most; the only one without asking."""
    if len(bundles) == 1:
        return bundles[0], []
    from bpr.compute.torch_networks import load_network
    from bpr.domains.nearest import FeatureStatistics, nearest, nearest_notice

    images = [network_image(volume, bundle)[0] for bundle in bundles]
    first = [load_network(bundle).members[0] for bundle in bundles]
    known = [FeatureStatistics.from_json(bundle.facts["features"]) for bundle in bundles]
    tiles = [tuple(bundle.facts["tile"]) for bundle in bundles]
    distances = [nearest([i], [n], [k], tile)[0] for i, n, k, tile in zip(images, first, known, tiles, strict=True)]
    names = [bundle.facts["domain"]["name"] for bundle in bundles]
    return bundles[int(np.argmin(distances))], [nearest_notice(names, distances)]


def network_image(volume: Volume, bundle: Bundle) -> tuple[np.ndarray, sitk.Image]:
    """The scan as the bundle's network sees it, (channels, z, y, x), and its grid along the patient's axes."""
    domain = Domain.from_json(bundle.facts["domain"])
    empty = AIR_HU if domain.modality == "CT" else float(sitk.GetArrayViewFromImage(volume.image).min())
    grid = canonical(volume.image, (domain.grid_mm,) * 3, empty)
    return domain.normalized(sitk.GetArrayFromImage(grid)), grid


def segment_domain(volume: Volume, bundle: Bundle, predict: Predictor, progress: Callable[[int, int], None]
                   ) -> tuple[sitk.Image, list[SegmentFound]]:  # fmt: skip
    """Labels with the domain's own values on the volume's own grid, and what was found."""
    domain, tile = Domain.from_json(bundle.facts["domain"]), tuple(bundle.facts["tile"])
    image, grid = network_image(volume, bundle)
    if bundle.facts.get("mirror"):
        from bpr.domains.inference import mirrored

        predict = mirrored(predict, domain.partner)
    total, done = count_tiles(image.shape[1:], tile), 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    probability = predict_grid(image, predict, len(domain.structures) + 1, tile, advance)
    best, doubts = probability.argmax(0), {}
    values = np.zeros(len(domain.structures) + 1, np.uint8)
    for channel, structure in enumerate(domain.structures, 1):
        mask = best == channel
        kept = kept_parts(mask, structure.cleanup, domain.grid_mm**3 / 1000)
        probability[channel][mask & ~kept] = 0
        doubts[structure.value] = float(1 - probability[channel][kept].mean()) if kept.any() else 1.0
        values[channel] = structure.value
    labels = _on_volume(probability, values, grid, volume.image)
    return labels, _segments(labels, volume.image, domain, doubts)


def _on_volume(probability: np.ndarray, values: np.ndarray, grid: sitk.Image, image: sitk.Image) -> sitk.Image:
    """The most probable label at each of the volume's voxels: probabilities are interpolated, not labels."""
    best, labels = None, np.zeros(image.GetSize()[::-1], np.uint8)
    for channel, one in enumerate(probability):
        channel_image = sitk.GetImageFromArray(one)
        channel_image.CopyInformation(grid)
        there = sitk.Resample(channel_image, image, sitk.Transform(), sitk.sitkLinear, float(channel == 0))
        array = sitk.GetArrayFromImage(there)
        if best is None:
            best = array
            continue
        wins = array > best
        labels[wins], best[wins] = values[channel], array[wins]
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(image)
    return result


def _segments(labels: sitk.Image, image: sitk.Image, domain: Domain, doubts: dict[int, float]) -> list[SegmentFound]:
    """One entry for each structure that has voxels; its mean is of the scan's own intensities."""
    array, intensity = sitk.GetArrayViewFromImage(labels), sitk.GetArrayViewFromImage(image)
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000
    found = []
    for structure in domain.structures:
        mask = array == structure.value
        if mask.any():
            edge = any(mask.take(end, axis).any() for axis in range(3) for end in (0, -1))
            ml, mean = float(mask.sum() * voxel_ml), float(intensity[mask].mean())
            doubt = round(doubts[structure.value], 3)
            found.append(SegmentFound(structure.value, structure.id, structure.name, ml, mean, doubt, edge))
    return found
