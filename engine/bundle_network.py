"""The cascade as one network for MONAI's engines: a CT and its affine in, each stage's mask out.

`engine/bundle.py` ships this file, and what it imports, inside a bundle; `configs/inference.json`
there names what is defined here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.case import HU_RANGE, Case, DataError, Grid
from data.readers.geometry import check_grid
from data.readers.values import to_hu
from data.readers.volume import canonical_spacing, grid_axis_map
from engine.cascade import order_stages, segment
from engine.inference import Predictor
from methods import build_method, config_from_plain
from utils.about import NOTICE, VERSION
from utils.device import select_precision
from utils.files import write_json

SCANS = ("*.nii", "*.nii.gz")
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

log = logging.getLogger(__name__)


class Cascade(nn.Module):
    """The stages of Fig. 4, one after the other. Its state dict holds the weights of them all."""

    def __init__(
        self, stages: str | Path, precision: str = "auto", window_voxels: int | None = None
    ) -> None:
        """`stages`: the file that `engine/bundle.py` writes, by stage its config and its sources.

        `precision` and `window_voxels` as in `load_predictor`. The weights are random until a state
        dict is loaded.
        """
        super().__init__()
        content = json.loads(Path(stages).read_text(encoding="utf-8"))
        configs = {name: config_from_plain(entry["config"]) for name, entry in content.items()}
        self.precision, self.window_voxels = precision, window_voxels
        self.methods = nn.ModuleDict()
        for name, config in configs.items():
            method = build_method(config, content[name]["sources"])
            method.auxiliary = None  # it only trains
            self.methods[name] = method
        self.stages = tuple(
            order_stages([*self._predictors(torch.device("cpu"))], {}, has_roi=False)
        )
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """HU (b, 1, x, y, z) on any grid -> masks, uint8 0 or 1, (b, stages, x, y, z), same grid.

        `image`: a MetaTensor, whose affine (voxel indices to mm, RAS, as MONAI's LoadImage gives
        it) says how the scan lies and how large its voxels are. A plain tensor is taken as it is:
        1 mm, RAS, values not checked. Raises ValueError for what is no CT.
        """
        if image.ndim != 5 or image.shape[1] != 1:
            raise ValueError(
                f"the image has shape {tuple(image.shape)}; give (batch, 1, x, y, z), one channel"
            )
        from monai.data import MetaTensor
        from monai.utils import convert_to_dst_type

        predictors = self._predictors(image.device)
        affines, names = [np.eye(4)] * len(image), [""] * len(image)
        if isinstance(image, MetaTensor):
            affines = list(image.affine.cpu().double().numpy().reshape(-1, 4, 4))
            name = image.meta.get("filename_or_obj", "")
            names = [name] * len(image) if isinstance(name, str) else list(map(str, name))
        else:
            log.warning("the image has no affine: taken as 1 mm voxels in RAS, values not checked")
        masks = []
        for scan, affine, name in zip(image, affines, names, strict=True):
            array = np.asarray(scan[0].detach().cpu())
            case = _make_case(array, affine, name, checked=isinstance(image, MetaTensor))
            found = segment(case, predictors)
            to_file = grid_axis_map(case.grid).to_file
            masks.append(np.stack([to_file(found[stage].mask).T for stage in self.stages]))
        stacked = torch.from_numpy(np.stack(masks).astype(np.uint8))
        result: Tensor = convert_to_dst_type(stacked, image, dtype=torch.uint8)[0]
        return result

    def _predictors(self, device: torch.device) -> dict[str, Predictor]:
        precision = select_precision(self.precision, device, training=False)
        return {
            name: Predictor(method.config, method, device, precision, self.window_voxels)  # type: ignore[arg-type]
            for name, method in self.methods.items()
        }


def _make_case(array: np.ndarray, affine: np.ndarray, name: str, *, checked: bool) -> Case:
    """A scan (x, y, z) with its affine (RAS) as the readers give it. Raises DataError."""
    path = Path(name or "image")
    matrix = RAS_TO_LPS @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or (spacing == 0).any():
        raise DataError(f"{path}: its affine is no geometry; correct the header")
    x, y, z = array.shape
    grid = Grid(
        size_xyz=(x, y, z),
        spacing_xyz=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_xyz=(float(matrix[0, 3]), float(matrix[1, 3]), float(matrix[2, 3])),
        direction=tuple(float(cosine) for cosine in (matrix[:3, :3] / spacing).ravel()),
    )
    notes = check_grid(grid, path)
    if checked:
        image_hu, more = to_hu(np.ascontiguousarray(array.T), path)
        notes += more
    else:
        image_hu = np.rint(np.clip(array.T, *HU_RANGE)).astype(np.int16)
    for note in notes:
        log.warning("%s: %s", path, note)
    canonical = np.ascontiguousarray(grid_axis_map(grid).to_canonical(image_hu))
    return Case(path.name, "", canonical, None, canonical_spacing(grid), grid, notes)


def find_scans(place: str | Path) -> list[dict[str, str]]:
    """The NIfTI files of a folder, or the one file, as MONAI's Dataset takes them.

    Raises FileNotFoundError where there is none.
    """
    place = Path(place)
    if place.is_file():
        return [{"image": str(place)}]
    found = sorted(path for pattern in SCANS for path in place.glob(pattern))
    if not found:
        raise FileNotFoundError(
            f"{place}: no .nii or .nii.gz file there; give the scans by --dataset_dir"
        )
    return [{"image": str(path)} for path in found]


def write_manifest(output: str | Path, bundle: str | Path, scans: Sequence[dict[str, str]]) -> None:
    """manifest.json beside the masks: which scans, which weights, which version, and the notice."""
    meta = json.loads((Path(bundle) / "configs" / "metadata.json").read_text(encoding="utf-8"))
    content: dict[str, Any] = {
        "notice": NOTICE,
        "version": VERSION,
        "checkpoint_sha256": {
            name: entry["checkpoint_sha256"] for name, entry in meta["stages"].items()
        },
        "scans": [Path(scan["image"]).name for scan in scans],
    }
    write_json(Path(output) / "manifest.json", content)
