"""Run one exported stage on a prepared CT: python run_onnx.py STAGE.onnx IMAGE --out FILE

Needs numpy and onnxruntime, and nibabel where a file is NIfTI; nothing of the project that exported
the stage. IMAGE holds Hounsfield units on the stage's own voxel size (`--info` prints it): an int16
.npy whose indices (z, y, x) rise to the head, the back and the left, or a NIfTI file in any
orientation. `--around MASK` is the mask that the stage crops around: the pancreas, or the tumor of
the stage before. Without it the stage sees the central window of every slice. The probability
is 0 outside the crop; `--mask FILE` also writes where it is above the threshold.

    from run_onnx import OnnxStage
    probability, crop = OnnxStage("tumor_fine.onnx").predict(image_hu, around=mask)

Research use only; no medical device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Slices = tuple[slice, ...]  # of (z, y, x)
MAX_SPACING_ERROR = 0.01  # of the voxel size
TEXTS = ("name", "version", "notice", "license", "checkpoint_sha256", "stage", "target", "method")
MIN_SHARE = 0.5  # of the largest component's voxels; a component that is kept has more
# Rows of voxels that were seen before a row and touch it, as steps in (z, y).
EARLIER_ROWS = ((-1, -1), (-1, 0), (-1, 1), (0, -1))


class OnnxStage:
    """An exported stage. `settings`: what its file says of itself; lengths as their names say."""

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """`threads`: of onnxruntime; 0: its own choice. ValueError for no exported stage."""
        import onnxruntime

        if not Path(path).is_file():
            raise ValueError(f"{path}: no file there")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own errors share no class
            raise ValueError(f"{path}: not a readable ONNX file ({error})") from error
        found = self.session.get_modelmeta().custom_metadata_map
        if "spacing_mm" not in found or "stage" not in found:
            raise ValueError(f"{path}: no stage of this project; export one by export_model.py")
        self.settings: dict[str, Any] = {
            key: value if key in TEXTS else _json_or_text(value) for key, value in found.items()
        }

    def predict(
        self,
        image_hu: np.ndarray,
        around: np.ndarray | None = None,
        pancreas: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Slices]:
        """Probability of the target, float32, in the crop of a volume, and the crop's place.

        `image_hu`: (z, y, x) HU on the stage's voxel size; `around`: mask of the same shape, None
        for the central window; `pancreas`: mask of it, which a stage of `crop_middle` "pancreas"
        needs. A stage with several rounds crops around what it found and predicts again, until two
        rounds agree, or what is cropped around has settled.
        """
        settings, shape = self.settings, image_hu.shape
        for name, mask in (("mask to crop around", around), ("pancreas", pancreas)):
            if mask is not None and (mask.shape != shape or not mask.any()):
                raise ValueError(
                    f"the {name} has {np.count_nonzero(mask)} voxels in {mask.shape}, the image is "
                    f"{shape}; give a mask on the image's grid"
                )
        if settings.get("crop_middle") == "pancreas" and pancreas is None:
            raise ValueError("this stage keeps its crops in the pancreas; give --pancreas MASK")
        crop = self.crop_around(shape, around, pancreas)
        before: np.ndarray | None = None
        for number in range(1, settings["rounds"] + 1):
            prob = self.predict_crop(image_hu[crop])
            if number == settings["rounds"]:
                break
            found = np.zeros(shape, bool)
            found[crop] = keep_components(prob > settings["threshold"])
            new, following = around, crop
            if np.count_nonzero(found) >= settings["min_round_voxels"]:
                new, following = found, self.crop_around(shape, found, pancreas)
            agree = before is not None and _dice(found, before) >= settings["agreement_dice"]
            if agree or following == crop or self.has_settled(around, new):
                break
            before, around, crop = found, new, following
        return prob, crop

    def predict_crop(self, crop_hu: np.ndarray) -> np.ndarray:
        """Probability of the target, float32, in a crop (z, y, x) of HU: one round.

        Padded as in training, every `stride`-th voxel, HU window, mean over the mirrored inputs.
        """
        if crop_hu.ndim != 3 or 0 in crop_hu.shape:
            raise ValueError(f"give a volume (z, y, x), not an array of shape {crop_hu.shape}")
        settings, stride = self.settings, self.settings["stride"]
        padded, inner = _pad(crop_hu, settings["multiple_of"] * stride, stride, settings["pad_hu"])
        low, high = settings["hu_window"]
        image = padded[::stride, ::stride, ::stride].astype(np.float32)
        image = (np.clip(image, low, high) - np.float32(low)) / np.float32(high - low)
        axes = settings["mirror_axes"]
        mirrors = [m for n in range(len(axes) + 1) for m in itertools.combinations(axes, n)]
        prob = np.zeros_like(image)
        for mirror in mirrors:
            prob += np.flip(self._run(np.flip(image, mirror)), mirror) / len(mirrors)
        for axis in range(3):
            prob = _upsample(prob, axis, stride)
        return prob[inner]

    def has_settled(self, before: np.ndarray | None, after: np.ndarray | None) -> bool:
        """Whether no side of the masks' boxes moves by `settled_slices` slices."""
        slices, spacing = self.settings.get("settled_slices", 0), self.settings["spacing_mm"]
        if not slices or before is None or after is None:
            return False
        ends = zip(_extents(before), _extents(after), spacing, strict=True)
        moves = [
            abs(a - b) * step
            for (_, old), (_, new), step in ends
            for a, b in zip(old, new, strict=True)
        ]
        return max(moves) < slices * spacing[0]

    def crop_around(
        self,
        shape: Sequence[int],
        around: np.ndarray | None,
        pancreas: np.ndarray | None = None,
    ) -> Slices:
        """Where the stage looks in a volume: around the mask's box, or the center."""
        settings = self.settings
        if around is None or settings["roi"] == "volume":
            sizes = (shape[0], *settings["window_voxels"])
            sides = [min(n, size) for n, size in zip(shape, sizes, strict=True)]
            step = settings["stride"]
            starts = [(n - s) // 2 // step * step for n, s in zip(shape, sides, strict=True)]
            return tuple(slice(a, a + s) for a, s in zip(starts, sides, strict=True))
        if settings.get("crop") == "fixed":
            crop = [self._fixed(axis, *ends, shape[axis]) for axis, ends in _extents(around)]
        else:
            crop = [self._margin(axis, *ends, shape[axis]) for axis, ends in _extents(around)]
        if settings.get("crop_middle") != "pancreas" or pancreas is None:
            return tuple(crop)
        for axis, ends in _extents(pancreas):
            part, n = crop[axis], shape[axis]
            within = self._margin(axis, *ends, n)
            middle = (part.start + part.stop) // 2
            side = part.stop - part.start
            moved = part.start + min(max(middle, within.start), within.stop - 1) - middle
            start = min(max(moved, 0), n - side)
            crop[axis] = slice(start, start + side)
        return tuple(crop)

    def _margin(self, axis: int, start: int, stop: int, n: int) -> slice:
        margin = self.settings["margin_voxels"][axis]
        return self._fit(start - margin, stop + margin, n)

    def _fixed(self, axis: int, start: int, stop: int, n: int) -> slice:
        voxels = self.settings["crop_mm"][axis] / self.settings["spacing_mm"][axis]
        side = max(int(np.ceil(voxels - 1e-6)), stop - start)
        first = (start + stop - side) // 2
        return self._fit(first, first + side, n)

    def _fit(self, start: int, stop: int, n: int) -> slice:
        missing = -(stop - start) % self.settings["multiple_of"]
        side = stop - start + missing
        start = min(max(start - missing // 2, 0), max(n - side, 0))
        return slice(start, min(start + side, n))

    def _run(self, image: np.ndarray) -> np.ndarray:
        """One pass, (z, y, x) in [0, 1] with sides of multiples of 8 -> probability."""
        inputs = {"image": np.ascontiguousarray(image[None, None])}
        return self.session.run(["probability"], inputs)[0][0, 0]


def _extents(mask: np.ndarray) -> list[tuple[int, tuple[int, int]]]:
    """Each axis with the first index that the mask fills and the one behind its last."""
    extents = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        extents.append((axis, (int(filled[0]), int(filled[-1]) + 1)))
    return extents


def keep_components(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected component, and every other larger than half of it; bool (z, y, x).

    Voxels are joined as runs along x; two runs touch where their rows are neighbors and they
    overlap or meet at a corner.
    """
    kept = np.zeros(mask.shape, bool)
    edges = np.diff(np.pad(mask, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=2)
    starts, stops = np.argwhere(edges == 1), np.argwhere(edges == -1)[:, 2]
    rows: dict[tuple[int, int], list[int]] = {}
    for run, (z, y, _) in enumerate(starts.tolist()):
        rows.setdefault((z, y), []).append(run)
    parent = list(range(len(starts)))
    first, last = starts[:, 2].tolist(), stops.tolist()
    for (z, y), runs in rows.items():
        for dz, dy in EARLIER_ROWS:
            for run, other in itertools.product(runs, rows.get((z + dz, y + dy), ())):
                if first[run] <= last[other] and first[other] <= last[run]:
                    parent[_root(parent, run)] = _root(parent, other)
    roots = np.array([_root(parent, run) for run in range(len(parent))], int)
    sizes = np.bincount(roots, stops - starts[:, 2], minlength=1)
    for run in np.flatnonzero(sizes[roots] > MIN_SHARE * sizes.max()).tolist():
        z, y, x = starts[run].tolist()
        kept[z, y, x : last[run]] = True
    return kept


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    """0 where both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0


def _pad(crop: np.ndarray, multiple: int, step: int, value: float) -> tuple[np.ndarray, Slices]:
    """Sides filled up to multiples, in front by a multiple of `step`; and the crop's place."""
    missing = [-n % multiple for n in crop.shape]
    front = [m // 2 // step * step for m in missing]
    pads = [(f, m - f) for f, m in zip(front, missing, strict=True)]
    inner = tuple(slice(f, f + n) for f, n in zip(front, crop.shape, strict=True))
    return np.pad(crop, pads, constant_values=value), inner


def _upsample(prob: np.ndarray, axis: int, factor: int) -> np.ndarray:
    """Linear along one axis: element factor * i of the result is i's; the last one is kept."""
    if factor == 1:
        return prob
    following = np.concatenate([prob, prob.take([-1], axis)], axis).take(
        range(1, prob.shape[axis] + 1), axis
    )
    parts = [prob + (following - prob) * np.float32(i / factor) for i in range(factor)]
    shape = [n * factor if a == axis else n for a, n in enumerate(prob.shape)]
    return np.stack(parts, axis + 1).reshape(shape)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def read_volume(path: Path, spacing: Sequence[float], orientation: str) -> tuple[np.ndarray, Any]:
    """(z, y, x) in the stage's orientation, and what `write_volume` needs to undo it."""
    if not path.is_file():
        raise ValueError(f"{path}: no file there")
    if path.suffix == ".npy":
        array, place = np.load(path, allow_pickle=False), None
    elif path.name.endswith((".nii", ".nii.gz")):
        import nibabel as nib

        image: Any = nib.load(path)
        steps = nib.affines.voxel_sizes(image.affine)
        own = nib.orientations.io_orientation(image.affine)
        wanted = nib.orientations.axcodes2ornt(tuple(orientation))
        turn = nib.orientations.ornt_transform(own, wanted)
        steps = steps[np.argsort(turn[:, 0])]  # of x, y, z
        if np.abs(steps[::-1] / spacing - 1).max() > MAX_SPACING_ERROR:
            own_mm, its_mm = (" x ".join(f"{s:.4g}" for s in e) for e in (steps[::-1], spacing))
            raise ValueError(
                f"{path}: voxels of {own_mm} mm (z, y, x), the stage was trained on {its_mm} mm; "
                "resample it first"
            )
        array = nib.orientations.apply_orientation(np.asanyarray(image.dataobj), turn).T
        place = (image.affine, nib.orientations.ornt_transform(wanted, own))
    else:
        raise ValueError(f"{path}: unknown format; give a .npy, .nii or .nii.gz file")
    if array.ndim != 3:
        raise ValueError(f"{path}: is of shape {array.shape}, not one volume")
    return array, place


def write_volume(path: Path, array: np.ndarray, place: Any, text: str) -> None:
    """A .npy, or, for an image that was NIfTI, a NIfTI file on its grid; `text`: in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        if path.suffix == ".npy":
            np.save(partial, array)
        else:
            import nibabel as nib

            affine, turn = place
            image = nib.Nifti1Image(nib.orientations.apply_orientation(array.T, turn), affine)
            image.header["descrip"] = text[:79].encode()
            nib.save(image, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main(given: Sequence[str] | None = None) -> int:
    """Parse, read, predict, write; the exit status."""
    arguments = _parse(given)
    try:
        return _run_files(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error.name} is not installed; pip install {error.name}", file=sys.stderr)
        return 2


def _run_files(arguments: argparse.Namespace) -> int:
    stage = OnnxStage(arguments.stage, arguments.threads)
    settings = stage.settings
    if arguments.info:
        for key, value in settings.items():
            print(f"{key}: {value}")
        return 0
    if arguments.image is None or arguments.out is None:
        raise ValueError("give an image and --out FILE, or --info")
    spacing, orientation = settings["spacing_mm"], settings["orientation"]
    image, place = read_volume(arguments.image, spacing, orientation)
    for path in (arguments.out, arguments.mask):
        if path is not None and not path.name.endswith((".npy", ".nii", ".nii.gz")):
            raise ValueError(f"{path}: unknown format; give a .npy, .nii or .nii.gz file")
        if path is not None and path.suffix != ".npy" and place is None:
            raise ValueError(f"{path}: an image from a .npy has no grid; write .npy, too")
    around, pancreas = (
        None if path is None else read_volume(path, spacing, orientation)[0] > 0
        for path in (arguments.around, arguments.pancreas)
    )
    part, crop = stage.predict(image, around, pancreas)
    prob = np.zeros(image.shape, np.float32)
    prob[crop] = part
    text = f"{settings['name']} {settings['version']} {settings['checkpoint_sha256'][:12]}: "
    write_volume(arguments.out, prob, place, text + "research use only")
    if arguments.mask is not None:
        mask = keep_components(prob > settings["threshold"]).astype(np.uint8)
        write_volume(arguments.mask, mask, place, text + "research use only")
    print(f"{arguments.out}: highest probability {prob.max():.3f}. {settings['notice']}")
    return 0


def _parse(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("stage", type=Path, help="an exported stage, .onnx")
    add("image", type=Path, nargs="?", help=".npy or NIfTI, HU on the stage's voxel size")
    add("--around", type=Path, metavar="MASK", help="crop around this mask, on the image's grid")
    add("--pancreas", type=Path, metavar="MASK", help="for a stage that keeps its crops in it")
    add("--out", type=Path, metavar="FILE", help="the probability, .npy or NIfTI")
    add("--mask", type=Path, metavar="FILE", help="also the mask, .npy or NIfTI")
    add("--threads", type=int, default=0, help="of onnxruntime (default: its own choice)")
    add("--info", action="store_true", help="print what the stage's file says, and end")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
