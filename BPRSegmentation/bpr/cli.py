"""The command line: one program, ``bpr``. The Slicer modules call the same functions."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bpr import __version__
from bpr.batch.commands import add_batch
from bpr.body_composition.commands import add_body_composition
from bpr.compute.threads import limit_threads
from bpr.errors import BPRError, InputError
from bpr.job import PRODUCTS, JobRequest, cancel_on_terminate, explain, print_event, run_job
from bpr.seed.commands import add_seed

ONLY = {"scores": ("scores", "report"), "regions": ("scores", "regions", "report"),
        "segmentation": ("scores", "segmentation", "report", "scene")}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``bpr``. Returns the exit code: 0 done, 2 wrong input, 1 our fault, 130 cancelled."""
    options = build_parser().parse_args(arguments)
    cancel_on_terminate()
    try:
        return options.action(options) or 0
    except BrokenPipeError:
        return _nobody_reads()
    except BaseException as error:  # noqa: BLE001 - the last place where an error can be put into words
        if isinstance(error, SystemExit):
            raise
        code, event = explain(error)
        if getattr(options, "json", False):
            try:
                print_event(event)
            except BrokenPipeError:
                return _nobody_reads()
        else:
            print(f"bpr: {event['message']} {event['advice']}".rstrip(), file=sys.stderr)
        return code


def _nobody_reads() -> int:
    """The exit code when who started us has gone; what Python would still write at its end goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="bpr", description="Body part regression and localized segmentation of CT.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_models(commands)
    _add_phantom(commands)
    _add_training(commands)
    add_batch(commands, ONLY)
    add_body_composition(commands)
    add_seed(commands)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _add_run(commands) -> None:
    run = commands.add_parser("run", help="score, find regions, segment: a file or a DICOM folder")
    run.add_argument("input", help="NIfTI, NRRD, MetaImage, a DICOM file or a folder of DICOM")
    run.add_argument("--out", required=True, help="folder for the results; an earlier result there is replaced")
    run.add_argument("--regions", type=_names, help="comma-separated regions, such as 'thorax,upper abdomen'")
    run.add_argument("--organs", type=_names, help="comma-separated organ IDs, such as 'liver,spleen'")
    run.add_argument("--only", choices=sorted(ONLY), help="make this product only")
    run.add_argument("--bundle", action="append", default=[], metavar="NAME", help="use this model (repeatable)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    run.add_argument("--engine", default="auto", help="auto, openvino or torch")
    run.add_argument("--step", type=float, default=2.5, metavar="MM", help="distance of the slices that are scored")
    run.add_argument("--threads", type=int, metavar="N", help="use so many threads (default: all cores)")
    run.add_argument("--no-scene", action="store_true", help="do not write scene.mrb")
    run.add_argument("--json", action="store_true", help="print JSON lines instead of a progress bar")
    run.set_defaults(action=_run)


def _run(options: argparse.Namespace) -> None:
    produce = ONLY[options.only] if options.only else PRODUCTS
    if options.no_scene:
        produce = tuple(product for product in produce if product != "scene")
    request = JobRequest(options.input, options.out, produce, options.regions, options.organs, options.bundle,
                         options.device, options.engine, options.step, threads=options.threads)  # fmt: skip
    if options.threads and options.threads > 0:
        limit_threads(options.threads)
    if options.json:
        run_job(request, print_event)
        return
    from bpr.terminal import ProgressBar, print_result

    with ProgressBar() as bar:
        result = run_job(request, bar.show)
    print_result(result)


def _add_models(commands) -> None:
    models = commands.add_parser("models", help="list, show, import, export or remove model bundles")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="all installed bundles").set_defaults(action=_list_models)
    for name, help_text, action in (
        ("show", "print the model card", lambda o: print(_bundle(o).card)),
        ("verify", "compare all files with their checksums", lambda o: _bundle(o).verify()),
        ("remove", "delete an imported bundle", _remove_model),
    ):
        one = actions.add_parser(name, help=help_text)
        one.add_argument("name")
        one.set_defaults(action=action)
    importer = actions.add_parser("import", help="install a bundle from a folder or a zip file")
    importer.add_argument("source", type=Path)
    importer.set_defaults(action=_import_model)
    exporter = actions.add_parser("export", help="write a bundle as a zip file")
    exporter.add_argument("name")
    exporter.add_argument("target", type=Path)
    exporter.set_defaults(action=_export_model)


def _bundle(options: argparse.Namespace):
    from bpr.models import find_bundle

    return find_bundle(options.name)


def _list_models(options: argparse.Namespace) -> None:
    from bpr.models import list_bundles

    for bundle in list_bundles():
        try:
            size, use = bundle.size_mb(), bundle.facts["use"]
            modality = bundle.facts.get("modality", "CT")
            print(f"{bundle.name:26} {bundle.version:8} {bundle.slot:16} {modality:3} {size:5.1f} MB  {use}")
        except BPRError as error:
            print(f"{bundle.name:28} unusable: {error}")


def _remove_model(options: argparse.Namespace) -> None:
    from bpr.models import remove_bundle

    remove_bundle(options.name)
    print(f"{options.name} removed")


def _import_model(options: argparse.Namespace) -> None:
    from bpr.models import import_bundle

    bundle = import_bundle(options.source)
    print(f"{bundle.name} {bundle.version} installed in {bundle.folder}")


def _export_model(options: argparse.Namespace) -> None:
    from bpr.models import export_bundle

    print(export_bundle(options.name, options.target))


def _add_phantom(commands) -> None:
    phantom = commands.add_parser("phantom", help="write a CT phantom whose truth is known")
    phantom.add_argument("--out", type=Path, required=True, help="image file, such as phantom.nrrd")
    phantom.add_argument("--labels", type=Path, help="also write its label map here")
    phantom.add_argument("--seed", type=int, default=0)
    phantom.add_argument("--spacing", type=float, default=3.0, metavar="MM", help="edge of a voxel")
    phantom.set_defaults(action=_phantom)


def _phantom(options: argparse.Namespace) -> None:
    import SimpleITK as sitk

    from bpr.phantom import make_phantom

    if not 1 <= options.spacing <= 10:
        raise InputError(f"A spacing of {options.spacing} mm is not possible.", "Choose 1 to 10 mm.")
    phantom = make_phantom(spacing_mm=(options.spacing,) * 3, seed=options.seed)
    for image, path in ((phantom.image, options.out), (phantom.labels, options.labels)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(path), useCompression=True)
            print(path)


def _add_training(commands) -> None:
    train = commands.add_parser("train", help="train a network from a data folder")
    train.add_argument("kind", choices=("score", "segmentation", "regions", "body-composition", "vertebrae"))
    train.add_argument("config", type=Path, help="YAML file, or the name of one that ships with the program")
    train.add_argument("--work", type=Path, default=Path("training"), help="folder for caches, checkpoints and weights")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    train.set_defaults(action=_train)
    bundle = commands.add_parser("bundle", help="make a bundle of a trained network, measured on validation cases")
    bundle.add_argument("kind", choices=("score", "segmentation", "body-composition", "vertebrae"))
    bundle.add_argument("config", type=Path)
    bundle.add_argument("--work", type=Path, default=Path("training"))
    bundle.set_defaults(action=_make_bundle)
    evaluate = commands.add_parser("evaluate", help="measure a bundle on a data folder's validation cases")
    evaluate.add_argument("kind", choices=("score", "segmentation"))
    evaluate.add_argument("bundle", help="bundle name, or 'localized' for the regions' networks together")
    evaluate.add_argument("data", type=Path, help="data folder, see docs/training.md")
    evaluate.add_argument("--config", type=Path, help="training configuration of a domain's bundle: it tells the cases")
    evaluate.add_argument("--out", type=Path, help="also write the table here as JSON")
    evaluate.set_defaults(action=_evaluate)


def _train(options: argparse.Namespace) -> None:
    from bpr.training import commands, processes

    if options.kind == "regions":
        print(commands.train_regions(options.config))
        return
    if options.kind == "body-composition":
        from bpr.body_composition.train_commands import train_composition as run
    elif options.kind == "vertebrae":
        from bpr.body_composition.spine_commands import train_vertebrae as run
    else:
        run = commands.train_score if options.kind == "score" else commands.train_segmentation
    with processes.joined():
        folder = run(options.config, options.work, options.resume)
        if processes.rank() == 0:
            print(folder)


def _make_bundle(options: argparse.Namespace) -> None:
    from bpr.training.packaging import package_score, package_segmentation

    if options.kind == "body-composition":
        from bpr.body_composition.train_commands import package_composition as package
    elif options.kind == "vertebrae":
        from bpr.body_composition.spine_commands import package_vertebrae as package
    else:
        package = package_score if options.kind == "score" else package_segmentation
    print(package(options.config, options.work).folder)


def _evaluate(options: argparse.Namespace) -> None:
    from bpr.evaluation.report import evaluate_bundle

    evaluate_bundle(options.kind, options.bundle, options.data, options.out, options.config)


if __name__ == "__main__":
    sys.exit(main())
