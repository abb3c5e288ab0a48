"""What a person drew: a .seg.nrrd of Slicer (segments may overlap, in layers) or a label map."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from bpr.errors import InputError
from bpr.seed.case import SeedCase
from bpr.seed.taught import all_structures
from bpr.segmentation.labels import Structure, label_table
from bpr.volume.quiet import captured_stderr

FIELD = re.compile(r"Segment(\d+)_(ID|Name|Layer|LabelValue|Tags)")
TERM = re.compile(r"TerminologyEntry:([^|]*)")
GEOMETRY = re.compile(r"Reference image geometry\|([^|&]*)")


@dataclass(frozen=True)
class Segment:
    """One segment of a file: where its voxels are and which structure it stands for ("" when the table has none)."""

    id: str
    name: str
    layer: int
    label: int
    structure: str


@dataclass(frozen=True)
class Drawing:
    """A segmentation file.

    Attributes:
        segments: all of them, also those that stand for no structure of the label table.
        layers: one label image per layer, all on one grid.
        outside_is_background: true for .seg.nrrd, where Slicer stores only the box that holds voxels; what lies outside
            of a label map is unknown.
    """

    segments: tuple[Segment, ...]
    layers: tuple[sitk.Image, ...]
    outside_is_background: bool

    @property
    def structures(self) -> tuple[str, ...]:
        """IDs of the structures that have a segment, in label-table order."""
        present = {segment.structure for segment in self.segments}
        return tuple(structure.id for structure in all_structures() if structure.id in present)


def read_drawing(
    path: Path, mapping: dict[str, str] | None = None, table: tuple[Structure, ...] | None = None
) -> Drawing:
    """Read a segmentation file.

    Args:
        mapping: segment ID, name or label value to structure ID ("" to leave it out); wins over what the file says.
        table: structures that a segment may stand for; those of the common label table when it is not given.

    Raises:
        InputError: the file cannot be read, holds no segment, or two segments stand for one structure.
    """
    image = _read(path)
    keys = [key for key in image.GetMetaDataKeys() if FIELD.fullmatch(key)]
    fields: dict[int, dict[str, str]] = {}
    table = label_table() if table is None else table
    for key in keys:
        number, field = FIELD.fullmatch(key).groups()
        fields.setdefault(int(number), {})[field] = image.GetMetaData(key)
    layers = _layers(image)
    if fields:
        segments = tuple(_segment(entry, mapping or {}, table) for _, entry in sorted(fields.items()))
    else:
        segments = tuple(_labels(layers, mapping or {}, table))
    if not segments:
        raise InputError(
            f"{path.name} is empty: it holds no segment.", "Draw at least one organ, or choose another file."
        )
    _check_unique(segments, path)
    return Drawing(segments, layers, bool(fields))


def _read(path: Path) -> sitk.Image:
    if not path.is_file():
        raise InputError(
            f"The segmentation {path} does not exist.", "Check the path, or delete the case and add it again."
        )
    text = ""
    with captured_stderr() as printed:
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            text = str(error)
    if text or "expected" in printed[0] or "Z_BUF_ERROR" in printed[0]:
        raise InputError(f"{path.name} cannot be read as a segmentation: it is damaged or of another kind.",
                         "Give a .seg.nrrd that Slicer has saved, or a label map (.nrrd, .nii.gz).")  # fmt: skip
    if image.GetDimension() != 3:
        raise InputError(f"{path.name} is not a volume of labels.", "Give a .seg.nrrd or a label map.")
    return image


def _layers(image: sitk.Image) -> tuple[sitk.Image, ...]:
    """The components of an image as label images of whole numbers."""
    count = image.GetNumberOfComponentsPerPixel()
    parts = [sitk.VectorIndexSelectionCast(image, k) for k in range(count)] if count > 1 else [image]
    return tuple(sitk.Cast(part, sitk.sitkInt32) for part in parts)


def _segment(entry: dict[str, str], mapping: dict[str, str], table: tuple[Structure, ...]) -> Segment:
    identifier, name = entry.get("ID", ""), entry.get("Name", "")
    label = int(entry.get("LabelValue", "1"))
    for key in (identifier, name, str(label)):
        if key in mapping:
            return Segment(identifier, name, int(entry.get("Layer", "0")), label, _known(mapping[key], table))
    term = TERM.search(entry.get("Tags", ""))
    structure = structure_of(identifier, name, term[1] if term else "", table)
    return Segment(identifier, name, int(entry.get("Layer", "0")), label, structure)


def structure_of(identifier: str, name: str, terminology: str, table: tuple[Structure, ...]) -> str:
    """The structure that a segment stands for: by its ID, else its SNOMED CT code, else its name; "" for none."""
    if any(structure.id == identifier for structure in table):
        return identifier
    parts = terminology.split("~")
    if len(parts) >= 4:
        code, modifier = (part.split("^")[1] if part.count("^") >= 1 else "" for part in parts[2:4])
        for structure in table:
            if (structure.snomed_code, structure.modifier_code) == (code, modifier):
                return structure.id
    plain = name.strip().lower()
    return next((s.id for s in table if plain in (s.id, s.name.lower(), s.id.replace("_", " "))), "")


def _known(structure: str, table: tuple[Structure, ...]) -> str:
    if structure and not any(structure == one.id for one in table):
        known = ", ".join(one.id for one in table)
        raise InputError(f"There is no structure {structure!r} in the label table.", f"Known: {known}.")
    return structure


def _labels(layers: tuple[sitk.Image, ...], mapping: dict[str, str], table: tuple[Structure, ...]) -> list[Segment]:
    """Segments of a plain label map: its values are those of the label table unless the mapping says otherwise."""
    segments, by_value = [], {structure.value: structure.id for structure in table}
    for layer, image in enumerate(layers):
        for label in np.unique(sitk.GetArrayViewFromImage(image)):
            if label == 0:
                continue
            given = str(label) in mapping
            structure = _known(mapping[str(label)], table) if given else by_value.get(int(label), "")
            segments.append(Segment(str(label), structure or f"label {label}", layer, int(label), structure))
    return segments


def _check_unique(segments: tuple[Segment, ...], path: Path) -> None:
    seen: dict[str, str] = {}
    for segment in segments:
        if segment.structure and segment.structure in seen:
            raise InputError(
                f"Two segments of {path.name} stand for {segment.structure}: "
                f"{seen[segment.structure]} and {segment.name}.",
                "Delete or rename one of them (and its terminology), or map it to nothing.",
            )
        seen[segment.structure] = segment.name


def read_stored(case: SeedCase) -> Drawing:
    """What a case of a project holds, by the map that was stored with it. Raises InputError."""
    mapping = {entry["id"]: entry["structure"] for entry in case.segments}
    return read_drawing(case.segmentation_path, mapping, all_structures())


def reference_geometry(path: Path) -> sitk.Image | None:
    """The grid on which a .seg.nrrd was drawn, as an empty image; None when the file does not say.

    Slicer stores it as sixteen numbers of the IJK to RAS matrix and six of the extent.
    """
    image = sitk.ImageFileReader()
    image.SetFileName(str(path))
    try:
        image.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read.", "Check its permissions and the disk.") from error
    key = "Segmentation_ConversionParameters"
    match = GEOMETRY.search(image.GetMetaData(key)) if key in image.GetMetaDataKeys() else None
    numbers = [float(text) for text in match[1].split(";") if text.strip()] if match else []
    if len(numbers) != 22:
        return None
    matrix, extent = np.array(numbers[:16]).reshape(4, 4), np.array(numbers[16:]).astype(int)
    size = (extent[1::2] - extent[::2] + 1).tolist()
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if min(size) < 1 or spacing.min() <= 0:
        return None
    to_lps = np.diag([-1.0, -1.0, 1.0])
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing.tolist())
    grid.SetDirection((to_lps @ matrix[:3, :3] / spacing).ravel().tolist())
    grid.SetOrigin((to_lps @ (matrix[:3, 3] + matrix[:3, :3] @ extent[::2])).tolist())
    return grid
