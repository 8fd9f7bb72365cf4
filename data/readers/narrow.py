"""Wide labels read in little memory: float64 and the like as int16, a slab at a time.

Some tools save labels as float64: 1.3 GB for 512 x 512 x 600 voxels, and libraries make copies. A
NIfTI of that kind is rewritten slab by slab as int16 into a temporary file with the same header,
which is then read as any other file is.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

HEADER_BYTES = 348
WIDE_TYPES = {16: "f4", 64: "f8", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8"}  # NIfTI's codes
INT16 = (4, 16)  # code and bits
MIN_VOXELS = 1_000_000  # smaller files are read as they are
SLAB_VOXELS = 1_000_000
TOLERANCE = 1e-3  # off an integer


class _NotNarrow(Exception):
    """The file has to be read as it is, which also says what is wrong with it."""


@contextlib.contextmanager
def narrowed(path: Path) -> Iterator[Path]:
    """A file with the same header and integers, of two bytes a voxel where the file's are wider.

    It is `path` itself where that is no large NIfTI of a wide type, holds other values than
    integers of 16 bits, is damaged, or the temporary file does not fit on its disk.
    """
    with contextlib.ExitStack() as stack:
        small = path
        if path.name.lower().endswith((".nii", ".nii.gz")):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="label-")))
            with contextlib.suppress(_NotNarrow, OSError, EOFError, zlib.error, struct.error):
                _rewrite(path, folder / "label.nii")
                small = folder / "label.nii"
        yield small


def _rewrite(path: Path, target: Path) -> None:
    opened: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as source, target.open("wb") as out:
        header = bytearray(source.read(HEADER_BYTES))
        order = "<" if struct.unpack_from("<i", header)[0] == HEADER_BYTES else ">"
        dimensions = struct.unpack_from(f"{order}8h", header, 40)
        kind = WIDE_TYPES.get(struct.unpack_from(f"{order}h", header, 70)[0])
        voxels = math.prod(dimensions[1 : dimensions[0] + 1])
        offset, slope, intercept = struct.unpack_from(f"{order}3f", header, 108)
        if header[344:347] != b"n+1" or kind is None or voxels < MIN_VOXELS:
            raise _NotNarrow
        if not math.isfinite(slope) or slope == 0:
            slope, intercept = 1.0, 0.0
        struct.pack_into(f"{order}2h", header, 70, *INT16)
        struct.pack_into(f"{order}2f", header, 112, 1, 0)
        out.write(header + source.read(int(offset) - HEADER_BYTES))
        for first in range(0, voxels, SLAB_VOXELS):
            count = min(SLAB_VOXELS, voxels - first)
            slab = _read_slab(source, np.dtype(order + kind), count) * slope + intercept
            rounded = np.rint(slab)
            limits = np.iinfo(np.int16)
            if not (np.abs(slab - rounded) <= TOLERANCE).all():  # NaN too
                raise _NotNarrow
            if rounded.min() < limits.min or rounded.max() > limits.max:
                raise _NotNarrow
            out.write(rounded.astype(f"{order}i2").tobytes())
        if source.read(1):  # reads on to the end, and to the checksum of a .gz
            raise _NotNarrow


def _read_slab(source: IO[bytes], kind: np.dtype, count: int) -> np.ndarray:
    """`count` voxels as float64. Raises `_NotNarrow` at an early end."""
    content = source.read(count * kind.itemsize)
    if len(content) < count * kind.itemsize:
        raise _NotNarrow
    return np.frombuffer(content, kind).astype(np.float64)
