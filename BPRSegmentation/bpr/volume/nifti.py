"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz).

ITK fills truncated files with zeros, drops a sheared sform in favor of another matrix or refuses it, mends impossible
voxel sizes in silence and cannot read NIfTI-2. So the header is read here, once, with the choice between sform and
qform that ITK and hence Slicer make, and the voxels are read by numpy.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from bpr.errors import InputError, Notice
from bpr.volume.checks import COPY_AGAIN, EXPORT_AGAIN, check_direction, check_size, check_spacing, is_whole
from bpr.volume.geometry import is_orthogonal

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_GZIP_MAGIC = b"\x1f\x8b"
_COLOR_TYPES = (128, 2304)
_COMPLEX_TYPES = (32, 1792, 2048)
_UNITS_TO_MM = {1: 1000.0, 3: 0.001}  # metres, micrometres; everything else counts as millimetres
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class _Header:
    """The fields used here. ``qform``: b, c, d, x, y, z; ``sform``: 3 x 4, both to RAS in the file's own unit."""

    order: str
    dims: list[int]
    pixdim: list[float]
    datatype: int
    offset: int
    slope: float
    intercept: float
    unit: float
    qform_code: int
    sform_code: int
    qform: list[float]
    sform: np.ndarray


def read_nifti(path: Path, name: str) -> tuple[sitk.Image, list[Notice]]:
    """Read one NIfTI file.

    Returns:
        The image in LPS, its direction matrix possibly not orthogonal, and notices about doubtful geometry.

    Raises:
        InputError: not NIfTI, truncated, not a scalar 3-D image of at least 3 slices, impossible geometry.
    """
    with open(path, "rb") as file:
        is_gzip = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        read = _gzip_reader(file, name) if is_gzip else file.read
        start = bytes(read(544))
        header = _parse(start, name)
        dtype = np.dtype(header.order + _TYPES[header.datatype])
        affine, notices = _affine(header, name)
        check_size(header.dims, dtype.itemsize, name)
        size = header.dims[:3]
        count = int(np.prod(size)) * dtype.itemsize
        data = bytearray(start[header.offset :])
        read_to = max(0, header.offset - len(start))
        if read_to:
            read(read_to)
        data += read(count - len(data))
        read(1)  # reaches gzip's check sum
    if len(data) < count:
        raise InputError(f"{name} is incomplete: it holds {len(data) / count:.0%} of its voxels.", COPY_AGAIN)
    voxels = np.frombuffer(data, dtype, count=int(np.prod(size))).reshape(size[::-1])
    return _image(_rescaled(voxels, header), affine, name), notices


def _gzip_reader(file: BinaryIO, name: str) -> Callable[[int], bytearray]:
    """A ``read(n)`` over the decompressed bytes that stops early at the file's end; raises InputError on damage."""
    decoder = zlib.decompressobj(31)

    def read(count: int) -> bytearray:
        nonlocal decoder
        out = bytearray()
        try:
            while len(out) < count:
                chunk = decoder.unconsumed_tail or decoder.unused_data or file.read(1 << 20)
                if decoder.eof:  # bgzip and concatenated files hold several members; anything else is padding
                    if not chunk.startswith(_GZIP_MAGIC):
                        break
                    decoder = zlib.decompressobj(31)
                if not chunk:
                    break
                out += decoder.decompress(chunk, count - len(out))
        except zlib.error as error:
            raise InputError(f"{name} is damaged: its compressed data cannot be unpacked.", COPY_AGAIN) from error
        return out

    return read


def _parse(start: bytes, name: str) -> _Header:
    sizes = {order: struct.unpack(f"{order}i", start[:4])[0] for order in "<>"} if len(start) >= 348 else {}
    order = next((order for order, size in sizes.items() if size in (348, 540)), None)
    version = 2 if order and sizes[order] == 540 else 1
    magic = start[4:8] if version == 2 else start[344:348]
    if order is None or magic[:3] not in (b"n+1", b"n+2"):
        what = "a text file" if start and all(9 <= byte < 127 for byte in start[:200]) else "something else"
        raise InputError(f"{name} is not a NIfTI file; it holds {what}.", "Choose the CT itself (.nii or .nii.gz).")

    def take(fields: str, at_1: int, at_2: int):
        """Values at the field's place; in version 2, shorts are 64-bit, ints stay, floats are double."""
        fields = fields.replace("h", "q").replace("f", "d") if version == 2 else fields
        return struct.unpack_from(order + fields, start, at_2 if version == 2 else at_1)

    dims = list(take("8h", 40, 16))
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise InputError(f"{name} has a damaged header (dimensions {dims[1:4]}).", EXPORT_AGAIN)
    datatype = struct.unpack_from(order + "h", start, 12 if version == 2 else 70)[0]
    _check_type(datatype, name)
    codes = struct.unpack_from(order + ("ii" if version == 2 else "hh"), start, 344 if version == 2 else 252)
    units = struct.unpack_from(order + "i", start, 500)[0] if version == 2 else start[123]
    offset = struct.unpack_from(order + ("q" if version == 2 else "f"), start, 168 if version == 2 else 108)[0]
    slope, intercept = take("2f", 112, 176)
    smallest = 544 if version == 2 else 352
    if not np.isfinite(offset) or not smallest - 4 <= offset < 2**31:
        offset = smallest
    return _Header(
        order=order,
        dims=dims[1 : dims[0] + 1],
        pixdim=list(take("4f", 76, 104)),
        datatype=datatype,
        offset=int(offset),
        slope=slope,
        intercept=intercept,
        unit=_UNITS_TO_MM.get(units & 7, 1.0),
        qform_code=codes[0],
        sform_code=codes[1],
        qform=list(take("6f", 256, 352)),
        sform=np.array(take("12f", 280, 400)).reshape(3, 4),
    )


def _check_type(datatype: int, name: str) -> None:
    if datatype in _COLOR_TYPES:
        raise InputError(f"{name} is a color image, not a CT in Hounsfield units.", "Choose the original CT.")
    if datatype in _COMPLEX_TYPES:
        raise InputError(f"{name} holds complex numbers, not a CT in Hounsfield units.", "Choose the original CT.")
    if datatype not in _TYPES:
        raise InputError(f"{name} stores its voxels in a type that is not supported ({datatype}).", EXPORT_AGAIN)


def _affine(header: _Header, name: str) -> tuple[np.ndarray, list[Notice]]:
    """The 3 x 4 matrix from index to LPS millimetres, chosen as ITK does, and notices where there is doubt."""
    if len(header.dims) >= 3:
        check_spacing([size * header.unit for size in header.pixdim[1:4]], name)
    notices = []
    sform = header.sform if header.sform_code > 0 else None
    qform = _qform_matrix(header) if header.qform_code > 0 else None
    if sform is not None and qform is not None and _apart(sform, qform, header) > 1.0 / header.unit:
        notices.append(
            Notice("geometry_doubtful", f"{name} states two different positions in space (sform and qform).")
        )
    if sform is not None and (qform is None or (header.sform_code == 1 and is_orthogonal(sform))):
        chosen = sform
    elif qform is not None:
        chosen = qform
    else:
        chosen = np.hstack([np.diag([-1.0, -1.0, 1.0]) * header.pixdim[1:4], np.zeros((3, 1))])
        notices.append(Notice("orientation_unknown", f"{name} does not state its orientation; LPS is assumed."))
    return _LPS_FROM_RAS @ chosen * header.unit, notices


def _qform_matrix(header: _Header) -> np.ndarray:
    b, c, d = header.qform[:3]
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handed = -1.0 if header.pixdim[0] < 0 else 1.0
    scales = np.array(header.pixdim[1:4]) * [1.0, 1.0, handed]
    return np.hstack([rotation * scales, np.reshape(header.qform[3:], (3, 1))])


def _apart(first: np.ndarray, second: np.ndarray, header: _Header) -> float:
    """Largest distance between the places that two matrices give to a corner of the volume."""
    size = (header.dims + [1, 1, 1])[:3]
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(8)])
    return float(np.linalg.norm((first - second) @ homogeneous, axis=0).max())


def _rescaled(voxels: np.ndarray, header: _Header) -> np.ndarray:
    """Values after the header's slope and intercept, in native byte order, integers where they stay integers."""
    slope, intercept = header.slope, header.intercept
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if slope == 0 or not np.isfinite([slope, intercept]).all() or (slope, intercept) == (1, 0):
        return voxels
    if voxels.dtype.kind in "iu" and is_whole(slope) and is_whole(intercept):
        return voxels.astype(np.int64) * int(slope) + int(intercept)
    return voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _image(voxels: np.ndarray, affine: np.ndarray, name: str) -> sitk.Image:
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    check_spacing(spacing, name)
    direction = affine[:, :3] / spacing
    check_direction(direction, name)
    if not np.isfinite(affine[:, 3]).all():
        raise InputError(f"{name} has a position in space that is not a number.", EXPORT_AGAIN)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(affine[:, 3].tolist())
    return image
