"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz): the header's geometry and every byte of the voxels.

Read here and not by SimpleITK, which turns NaN into 0 HU (water), takes a voxel size of 0 for
1 mm, mirrors an axis whose voxel size is negative, and knows no NIfTI-2. Where nothing of that is
at hand, the result is SimpleITK's (a test compares all 48 orientations).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.case import DataError, Grid
from data.readers.content import FETCH_AGAIN
from data.readers.geometry import SPACING_MM, is_ct_spacing

MAX_HEADER_CONFLICT_MM = 0.1
MAX_SCALE_CONFLICT = 0.01  # of a voxel size: two numbers for it that differ by more are two sizes
ORTHONORMAL = 1e-4  # a form that fits less well is not taken where there is another
NO_NOTES: tuple[str, ...] = ()
_CHUNK = 1 << 22  # bytes
_MAX_EXPANSION = 1040  # of gzip: no file grows more when it is decompressed
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's world is RAS
_UNITS_MM = {1: ("meters", 1000.0), 2: ("mm", 1.0), 3: ("micrometers", 0.001)}
# What is kept instead: the values that images and labels can have fit, at half the memory.
_KEPT_AS = {"f8": "f4", "i8": "i4", "u8": "i4"}


def read_nifti(path: Path) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    """Voxels (z, y, x) in the file's order, their grid (LPS), and notes on the header.

    The whole file is read, so a wrong checksum or length is noticed. Raises `DataError`.
    """
    try:
        with _open(path) as stream:
            header = _read_header(stream, path)
            shape = _shape(header, path)
            flat = _read_voxels(stream, header, math.prod(shape), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is cut short or corrupt ({error}); {FETCH_AGAIN}") from error
    array = _scaled(flat, header, path).reshape(shape[::-1])
    affine, spacing, notes = _place(header, path)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    grid = Grid(
        size_xyz=shape,
        spacing_xyz=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_xyz=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=tuple(float(cosine) for cosine in directions.ravel()),
    )
    return array, grid, notes


def nifti_size(path: Path) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Voxels (x, y, z) and spacing in mm from the header alone. Raises `DataError`."""
    try:
        with _open(path) as stream:
            header = _read_header(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is cut short or corrupt ({error}); {FETCH_AGAIN}") from error
    spacing = _place(header, path)[1]
    return _shape(header, path), (float(spacing[0]), float(spacing[1]), float(spacing[2]))


def _open(path: Path) -> Any:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path)
    return path.open("rb")


def _read_header(stream: IO[bytes], path: Path) -> Any:
    """nibabel's header, unchecked; the stream then stands behind it."""
    import nibabel as nib

    start = stream.read(4)
    two = start in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    kind = nib.Nifti2Header if two else nib.Nifti1Header
    block = start + stream.read(kind.sizeof_hdr - 4)
    if len(block) < kind.sizeof_hdr:
        raise DataError(f"{path}: is cut short ({len(block)} bytes); {FETCH_AGAIN}")
    header: Any = kind(block, check=False)
    if bytes(header["magic"])[:3] not in (b"n+1", b"n+2") or int(header["sizeof_hdr"]) != len(
        block
    ):
        raise DataError(f"{path}: is no NIfTI file, or its header is corrupt; {FETCH_AGAIN}")
    return header


def _shape(header: Any, path: Path) -> tuple[int, int, int]:
    """Voxels (x, y, z). Trailing axes of length 1 are dropped; other shapes are refused."""
    count = int(header["dim"][0])
    dims = tuple(int(n) for n in header["dim"][1 : count + 1])
    if not 1 <= count <= 7 or min(dims) < 1:
        raise DataError(f"{path}: its header is corrupt (size {dims}); {FETCH_AGAIN}")
    if len(dims) > 4 and dims[4] > 1:  # NIfTI's axis for them
        raise DataError(
            f"{path}: has several values per voxel ({dims[-1]} of them: color, or a field of "
            "vectors?); give a plain CT volume"
        )
    if len(dims) < 3 or any(n > 1 for n in dims[3:]):
        raise DataError(f"{path}: has size {dims}, not one 3-D volume; write one time point alone")
    return dims[0], dims[1], dims[2]


def _read_voxels(stream: IO[bytes], header: Any, count: int, path: Path) -> np.ndarray:
    """All voxels as stored, unscaled, 1-D, in the machine's byte order; then the file must end."""
    try:
        dtype = header.get_data_dtype()
    except KeyError as error:
        raise DataError(f"{path}: has an unknown number type ({error}); {FETCH_AGAIN}") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"{path}: has several values per voxel (color?) or an unusual type ({dtype}); give a "
            "plain CT volume"
        )
    start, needed = float(header["vox_offset"]), count * dtype.itemsize
    if not math.isfinite(start):
        raise DataError(f"{path}: its header is corrupt (vox_offset {start}); {FETCH_AGAIN}")
    most = path.stat().st_size * (_MAX_EXPANSION if path.name.lower().endswith(".gz") else 1)
    if needed > most:  # before so much memory is asked for
        raise DataError(
            f"{path}: is cut short, or the size in its header is wrong ({needed} bytes of voxels, "
            f"but the file has {path.stat().st_size}); {FETCH_AGAIN}"
        )
    stream.read(max(int(start), header.sizeof_hdr + 4) - header.sizeof_hdr)
    name = f"{dtype.kind}{dtype.itemsize}"
    array = np.empty(count, _KEPT_AS.get(name, name))
    done = 0
    while done < count:
        raw = stream.read(min(_CHUNK, (count - done) * dtype.itemsize))
        raw += b"" if len(raw) % dtype.itemsize == 0 else stream.read(-len(raw) % dtype.itemsize)
        if not raw or len(raw) % dtype.itemsize:
            found = done * dtype.itemsize + len(raw)
            raise DataError(f"{path}: is cut short ({found} of {needed} bytes); {FETCH_AGAIN}")
        part = np.frombuffer(raw, dtype)
        _check_range(part, array.dtype, path)
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, and said so later
            array[done : done + len(part)] = part
        done += len(part)
    extra = 0
    while rest := stream.read(_CHUNK):  # to the end, so that gzip compares its checksum
        extra += len(rest)
    if extra:
        raise DataError(
            f"{path}: is longer than its header says ({needed + extra} instead of {needed} bytes "
            "of voxels), so size or number type in the header is wrong; write the file again"
        )
    return array


def _check_range(part: np.ndarray, kept: np.dtype, path: Path) -> None:
    if kept.kind == "i" and part.dtype.itemsize > kept.itemsize and len(part):
        limits = np.iinfo(kept)
        if int(part.min()) < limits.min or int(part.max()) > limits.max:
            raise DataError(
                f"{path}: holds values from {part.min()} to {part.max()}, which no CT and no label "
                "has (negative values in an unsigned type?); convert it again"
            )


def _scaled(flat: np.ndarray, header: Any, path: Path) -> np.ndarray:
    """`scl_slope` and `scl_inter` applied; a slope of 0 or NaN means that there are none."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or (slope == 1 and inter == 0):
        return flat
    if not math.isfinite(inter):
        raise DataError(f"{path}: scl_inter is {inter}; correct the header")
    if slope == 1 and inter.is_integer() and flat.dtype.kind in "iu":
        ends = (int(flat.min()) + int(inter), int(flat.max()) + int(inter))
        fits = ends[0] >= -32768 and ends[1] <= 32767
        scaled = np.empty(flat.shape, np.int16 if fits else np.int32)
    else:
        scaled = np.empty(flat.shape, np.float32)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        scaled[part] = flat[part].astype(np.float64) * slope + inter
    return scaled


def _place(header: Any, path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Index (x, y, z, 1) -> world in mm, LPS; spacing in mm; notes."""
    sform, qform, steps, notes = _forms(header, path)
    if sform is None and qform is None:
        if np.all(steps == 1):
            raise DataError(
                f"{path}: its header gives neither voxel size nor orientation (pixdim 1, 1, 1; "
                "qform_code and sform_code 0); convert it again from DICOM"
            )
        affine = np.diag([*steps * (-1, -1, 1), 1.0])
        notes += (
            "its header gives no orientation (qform_code and sform_code are 0); read as x to the "
            "left, y to the back, z to the head: look at a picture of it",
        )
    elif qform is not None and not (int(header["sform_code"]) == 1 and _usable(sform, steps)):
        affine = qform  # as SimpleITK chooses
    elif sform is not None:
        affine = sform
    factor, unit_notes = _unit(header, steps, path)
    notes += unit_notes + _conflict(sform, qform, header)
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(norms, steps, rtol=MAX_SCALE_CONFLICT, atol=0):
        raise DataError(
            f"{path}: its header gives two voxel sizes, {_short(steps)} (pixdim) and "
            f"{_short(norms)} (sform); write it again with the right one"
        )
    affine = _LPS @ affine
    affine[:3] *= factor
    if np.all(steps * factor == 1) and not affine[:3, 3].any():
        notes += (
            "voxels are exactly 1 x 1 x 1 mm and the position is 0, which is what a header gets "
            "when nobody sets it; compare with the DICOM series",
        )
    return affine, steps * factor, notes


def _forms(
    header: Any, path: Path
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray, tuple[str, ...]]:
    """sform, qform (RAS, None where not given), voxel sizes, and what was wrong with the latter."""
    header = header.copy()
    given = header["pixdim"][1:4].astype(np.float64)
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    if sform is not None and not np.isfinite(sform).all():
        raise DataError(f"{path}: spacing or position is not a number (sform); correct the header")
    steps, notes = given, NO_NOTES
    if not (np.isfinite(given).all() and (given > 0).all()):
        steps = np.abs(given)
        if sform is not None:
            steps = np.linalg.norm(sform[:3, :3], axis=0)
        if not np.isfinite(steps).all() or not (steps > 0).all():
            raise DataError(
                f"{path}: its voxel size is {_short(given)} (pixdim), and nothing else in the "
                "header says it; correct the header, or convert it again from DICOM"
            )
        notes = (f"its voxel size is {_short(given)} in pixdim; read as {_short(steps)} mm",)
        header["pixdim"][1:4] = steps
    qform = header.get_qform() if int(header["qform_code"]) > 0 else None
    if qform is not None and not np.isfinite(qform).all():
        raise DataError(f"{path}: spacing or position is not a number (qform); correct the header")
    return sform, qform, steps, notes


def _usable(sform: np.ndarray | None, steps: np.ndarray) -> bool:
    """Whether an sform has axes at right angles and the voxel sizes of the rest of the header."""
    if sform is None:
        return False
    norms = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(norms, steps, rtol=MAX_SCALE_CONFLICT, atol=0):
        return False
    cosines = sform[:3, :3] / norms
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() <= ORTHONORMAL)


def _unit(header: Any, steps: np.ndarray, path: Path) -> tuple[float, tuple[str, ...]]:
    """Factor to mm. A unit that no CT can have, over numbers that are good mm, is a wrong unit."""
    name, factor = _UNITS_MM.get(int(header["xyzt_units"]) & 7, ("mm", 1.0))
    if factor == 1:
        return 1.0, ()
    if is_ct_spacing(steps * factor):
        return factor, (f"its header is in {name}; converted to mm",)
    if is_ct_spacing(steps):
        return 1.0, (
            f"its header says {name}, but voxels of {_short(steps)} {name} are no CT; read as mm",
        )
    raise DataError(
        f"{path}: voxels of {_short(steps)} {name} are no CT ({SPACING_MM[0]:g} to "
        f"{SPACING_MM[1]:g} mm); correct the header"
    )


def _conflict(sform: np.ndarray | None, qform: np.ndarray | None, header: Any) -> tuple[str, ...]:
    if qform is None or sform is None:
        return ()
    last = np.append(np.subtract(header["dim"][1:4], 1), 1)
    offset_mm = max(np.linalg.norm((qform - sform) @ corner) for corner in (last, (0, 0, 0, 1)))
    if offset_mm <= MAX_HEADER_CONFLICT_MM:
        return ()
    return (
        f"its header has two positions, {offset_mm:.3g} mm apart (qform and sform); read as "
        "SimpleITK does, other tools may take the other one: write it again with one of them",
    )


def _short(numbers: np.ndarray) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
