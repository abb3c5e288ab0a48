"""DICOM SEG from masks, by the package highdicom. Plain files and arrays: neither MRML nor Qt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bpr import __version__
from bpr.segmentation.labels import label_table

TOLERANCE_MM = 0.1


def write_dicom_seg(
    masks: dict[str, np.ndarray], names: dict[str, str], to_ras: np.ndarray, sources: Sequence[str], path: Path
) -> None:
    """Write one segment per mask, with the label table's SNOMED CT terms.

    Args:
        masks: segment ID to (k, j, i) bool; names: segment ID to what people read.
        to_ras: (4, 4) voxel index to RAS in mm.
        sources: files of the CT series, in any order.

    Raises:
        ValueError: no sources, or a grid that is not theirs. OSError: cannot be read or written.
    """
    import highdicom
    import pydicom

    series = [pydicom.dcmread(source) for source in sources]
    if not series:
        raise ValueError("the volume was not loaded from DICOM, so that there is no series to refer to")
    places = _slice_of_each(series, to_ras, next(iter(masks.values())).shape)
    filled = {identifier: mask for identifier, mask in masks.items() if mask.any()}
    if not filled:
        raise ValueError("the segmentation is empty")
    pixels = np.stack([filled[identifier][places] for identifier in filled], axis=-1).astype(np.uint8)
    maker = highdicom.AlgorithmIdentificationSequence(
        name="BodyPartRegression", family=highdicom.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        version=__version__,
    )  # fmt: skip
    segments = [_description(number, key, names[key], maker) for number, key in enumerate(filled, 1)]
    result = highdicom.seg.Segmentation(
        source_images=series,
        pixel_array=pixels,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=900,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="BodyPartRegression",
        manufacturer_model_name="BodyPartRegression for 3D Slicer",
        software_versions=__version__,
        device_serial_number="0",
        series_description="Body part segmentation",
    )
    result.save_as(path)


def _slice_of_each(series: list, to_ras: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """(n,) index k of each source image's slice; raises ValueError unless the grids are the same."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_ras
    indices = []
    for image in series:
        if (int(image.Rows), int(image.Columns)) != shape[1:]:
            raise ValueError("the volume's slices are of another size than its series' images")
        index = (np.linalg.inv(to_lps) @ [*map(float, image.ImagePositionPatient), 1.0])[:3]
        error = np.abs(to_lps[:3, :3] @ (index - [0, 0, round(index[2])])).max()
        if error > TOLERANCE_MM or not 0 <= round(index[2]) < shape[0]:
            raise ValueError("the volume was moved, cropped or resampled since it was loaded from DICOM")
        indices.append(round(index[2]))
    if len(set(indices)) != len(indices):
        raise ValueError("several images of the series lie at the same place")
    return np.array(indices)


def _description(number: int, identifier: str, name: str, maker):
    import highdicom
    from highdicom.sr import CodedConcept

    structure = next((s for s in label_table() if s.id == identifier), None)
    kind = CodedConcept("85756007", "SCT", "Tissue")
    if structure:
        kind = CodedConcept(structure.snomed_code, "SCT", structure.snomed_meaning)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=CodedConcept("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=maker,
    )
