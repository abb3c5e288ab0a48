"""Whether an NRRD file is complete. Slicer's segmentation reader ends the whole application on one that is not."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

BYTES = {"uchar": 1, "unsigned char": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2}
CHUNK = 1 << 20


def complete(path: Path) -> bool:
    """Whether header and all voxels of an attached raw or gzip NRRD of 8 or 16 bits are there."""
    with open(path, "rb") as file:
        header = {}
        while line := file.readline().decode("utf-8", errors="replace").rstrip("\r\n"):
            key, separator, value = line.partition(": ")
            if separator and ":=" not in line.split(": ")[0]:
                header[key] = value
        try:
            expected = math.prod(map(int, header["sizes"].split())) * BYTES[header["type"]]
            encoding = header["encoding"]
        except (KeyError, ValueError):
            return False
        if encoding == "raw":
            return len(file.read()) == expected
        return encoding in ("gzip", "gz") and _unpacked_size(file) == expected


def _unpacked_size(file) -> int:
    unpack, size = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), 0
    try:
        while chunk := file.read(CHUNK):
            size += len(unpack.decompress(chunk))
    except zlib.error:
        return -1
    return size if unpack.eof else -1
