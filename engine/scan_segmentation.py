"""The DICOM SEG of a predicted scan, made of the masks that lie in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.case import DataError
from data.readers.given_mask import read_given_mask
from data.readers.masks import read_mask
from data.readers.scans import Scan
from data.readers.series import choose_series
from data.readers.volume import read_volume
from engine.dicom_seg import Producer, require_highdicom, write_dicom_seg
from engine.scan_output import SEGMENTATION, mask_files, read_manifest, write_manifest
from utils.about import VERSION
from utils.stages import STAGES

NO_DICOM = f"no {SEGMENTATION}: the scan is no DICOM series, to whose slices it would refer"


def is_dicom(scan: Scan) -> bool:
    """Whether a scan is a folder with a DICOM series; a folder with a volume is listed as that."""
    return scan.image.is_dir()


def check_segmentation(scans: Sequence[Scan]) -> None:
    """Before anything is predicted: can any scan have a DICOM SEG? Raises `DataError`."""
    require_highdicom()
    if not any(map(is_dicom, scans)):
        raise DataError(
            f"{scans[0].image}: a DICOM SEG refers to the slices of a DICOM series, and this is "
            "none; give the folder of the series, or leave out --dicom-seg"
        )


def write_segmentation(
    folder: Path, scan: Scan, series: str | None = None, pancreas_label: int | None = None
) -> None:
    """Write segmentation.dcm into the `folder` of a predicted scan, and enter it in its manifest.

    Its segments are the given pancreas, else the mask of the last pancreas stage, and that of the
    last tumor stage, as far as they are there. `series`, `pancreas_label`: as the scan was read,
    see `choose_series` and `read_given_mask`. Raises `DataError` where a slice lacks what the
    object must refer to; the masks stay as they are.
    """
    manifest = read_manifest(folder)
    files = mask_files(folder, manifest)
    grid = read_volume(next(iter(files.values()))).grid
    last = {STAGES[stage].target: file for stage, file in files.items()}
    masks = {target: read_mask(file, grid) for target, file in last.items()}
    hashes = {stage: manifest["checkpoints_sha256"][stage] for stage in files}
    parameters = {stage: f"sha256 {digest}" for stage, digest in hashes.items()}
    if scan.pancreas is not None:
        masks["pancreas"], _ = read_given_mask(scan.pancreas, grid, pancreas_label)
    given = () if scan.pancreas is None else ("pancreas",)
    try:
        slices = [Path(file) for file in choose_series(scan.image, series)[0].files]
        producer = Producer(VERSION, parameters=parameters, given=given)
        write_dicom_seg(folder / SEGMENTATION, masks, slices, grid, producer)
    except DataError as error:
        raise DataError(f"{error} (its masks are in {folder})") from error
    names = [name for name in manifest["outputs"] if name != SEGMENTATION]
    write_manifest(folder, {**manifest, "outputs": [*names, SEGMENTATION]})
