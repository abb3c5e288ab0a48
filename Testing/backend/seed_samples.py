"""Toy SEED cases: a small body with two organs, a tiny network, in fractions of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.segmentation.labels import structure_by_id, terminology_entry

ORGANS = ("liver", "spleen")
SIZE, SPACING = (28, 26, 30), (4.0, 4.0, 4.0)  # x, y, z


def toy_volume(seed: int = 0, spacing=SPACING, size=SIZE, shift_hu: float = 0.0) -> tuple[sitk.Image, np.ndarray]:
    """A body with a bright liver on the right and a middling spleen on the left: CT and (z, y, x) labels."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n) for n in size[::-1])
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    wobble = rng.uniform(-0.08, 0.08, 6)
    labels = np.zeros(size[::-1], np.uint8)
    liver = ((x + 0.35 + wobble[0]) / 0.35) ** 2 + ((y + wobble[1]) / 0.45) ** 2 + ((z + wobble[2]) / 0.6) ** 2 < 1
    spleen = ((x - 0.45 + wobble[3]) / 0.25) ** 2 + ((y - 0.2 + wobble[4]) / 0.3) ** 2 + (
        (z + wobble[5]) / 0.5
    ) ** 2 < 1
    labels[spleen] = structure_by_id("spleen").value
    labels[liver] = structure_by_id("liver").value
    hu = np.where(x**2 / 0.95 + y**2 / 0.9 < 1, -80.0, -1000.0)
    hu[liver], hu[spleen] = 160, 60
    hu = hu + rng.normal(0, 12, hu.shape) + shift_hu * (hu > -900)
    image = sitk.GetImageFromArray(np.clip(np.rint(hu), -1024, 3000).astype(np.int16))
    image.SetSpacing(spacing)
    image.SetOrigin((-50.0, -40.0, 100.0))
    return image, labels


def as_image(labels: np.ndarray, like: sitk.Image) -> sitk.Image:
    """Labels (z, y, x) as an image with the geometry of ``like``."""
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(like)
    return image


def write_seg(path: Path, layers: list[sitk.Image], segments: list[dict]) -> Path:
    """A .seg.nrrd as Slicer writes it. ``segments``: id, name, layer, label, optionally terminology (an organ ID)."""
    image = sitk.Image(layers[0]) if len(layers) == 1 else sitk.Compose(layers)
    extent = " ".join(f"0 {n - 1}" for n in image.GetSize())
    for k, segment in enumerate(segments):
        tags = ""
        if segment.get("terminology"):
            tags = f"TerminologyEntry:{terminology_entry(structure_by_id(segment['terminology']))}|"
        fields = {"ID": segment["id"], "Name": segment["name"], "Layer": str(segment["layer"]), "Tags": tags,
                  "LabelValue": str(segment["label"]), "Extent": extent, "Color": "1 0 0"}  # fmt: skip
        for key, value in fields.items():
            image.SetMetaData(f"Segment{k}_{key}", value)
    image.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    image.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write_toy_case(folder: Path, seed: int = 0, shift_hu: float = 0.0) -> tuple[Path, Path]:
    """Volume and .seg.nrrd of a toy case in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    image, labels = toy_volume(seed, shift_hu=shift_hu)
    sitk.WriteImage(image, str(folder / "ct.nrrd"))
    segments = [{"id": organ, "name": organ, "layer": 0, "label": structure_by_id(organ).value} for organ in ORGANS]
    return folder / "ct.nrrd", write_seg(folder / "s.seg.nrrd", [as_image(labels, image)], segments)


def write_toy_bundle(folder: Path, structures=ORGANS, name: str = "toy"):
    """A tiny untrained network as a baseline bundle."""
    import torch

    from bpr.segmentation.network import build_network
    from bpr.training.bundle import write_bundle

    torch.manual_seed(0)
    filters, tile = [4, 4, 4, 4, 4], [16, 16, 32]
    network = build_network(len(structures) + 1, filters)
    facts = {"role": "baseline", "region": None, "use": "open", "structures": list(structures), "grid_mm": 4.0,
             "tile": tile}  # fmt: skip
    definition = {"_target_": "DynUNet", "classes": len(structures) + 1, "filters": filters}
    example, metadata = torch.zeros(1, 2, *tile), {"version": "0.1.0", "bpr": facts}
    return write_bundle(folder / name, network, definition, example, metadata, "card")


def write_slice_bundle(folder: Path, name: str = "slices"):
    """A tiny untrained network of compartments as a body-composition bundle."""
    import torch

    from bpr.body_composition.network import build_network
    from bpr.body_composition.tissues import CHANNELS, COMPARTMENTS, INPUT_SHAPE
    from bpr.training.bundle import write_bundle

    torch.manual_seed(0)
    definition = {"_target_": "BodyCompositionNet", "kind": "UNet", "filters": [4, 8, 8, 8]}
    network = build_network("UNet", filters=definition["filters"])
    facts = {"role": "body_composition", "use": "open", "compartments": list(COMPARTMENTS)}
    example, metadata = torch.zeros(1, CHANNELS, *INPUT_SHAPE), {"version": "0.1.0", "bpr": facts}
    return write_bundle(folder / name, network, definition, example, metadata, "card")
