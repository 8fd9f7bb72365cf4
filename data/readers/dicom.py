"""One DICOM series in a folder -> `Volume`, with what its tags tell of the scanner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from data.case import DataError
from data.readers.series import choose_series
from data.readers.volume import Volume, volume_from_image

# The rows of Table I that only DICOM knows.
ACQUISITION_TAGS = {
    "manufacturer": "0008|0070",
    "tube_voltage_kvp": "0018|0060",
    "tube_current_ma": "0018|1151",
    "exposure_mas": "0018|1152",
    "spiral_pitch_factor": "0018|9311",
}
POSITION, ORIENTATION = "0020|0032", "0020|0037"
MAX_GAP = 0.1  # slice distances may differ by this part of the usual one
MAX_TILT = 0.01  # in-plane drift per mm along the normal: above, the gantry was tilted


def read_dicom_folder(folder: Path, wanted: str | None = None) -> Volume:
    """The one series at or below `folder`; of several the `wanted` one, see `choose_series`.

    Raises `DataError` where there is none, more than one, a slice is missing, or it is tilted.
    """
    series, notes = choose_series(folder, wanted)
    folder, names = series.folder, series.files
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"{folder}: cannot be read ({reason}); copy the series again") from error
    _check_positions(reader, len(names), folder)
    volume = volume_from_image(image, folder)
    notes = (*notes, *volume.notes)
    return Volume(volume.array, volume.grid, notes, _tags(reader, len(names)))


def _check_positions(reader: sitk.ImageSeriesReader, count: int, folder: Path) -> None:
    """Slices must follow each other evenly along their normal."""
    if count < 3 or not reader.HasMetaDataKey(0, POSITION):
        return
    cosines = _numbers(reader.GetMetaData(0, ORIENTATION))
    normal = np.cross(cosines[:3], cosines[3:])
    positions = np.array([_numbers(reader.GetMetaData(i, POSITION)) for i in range(count)])
    gaps = np.abs(np.diff(positions @ normal))
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() > MAX_GAP * usual:
        place = int(np.abs(gaps - usual).argmax())
        raise DataError(
            f"{folder}: slices {place + 1} and {place + 2} are {gaps[place]:.3g} mm apart, the "
            f"others {usual:.3g} mm: a slice is missing or double; fetch the series again"
        )
    drift = positions[-1] - positions[0]
    along = float(drift @ normal)
    if np.linalg.norm(drift - along * normal) > MAX_TILT * abs(along):
        raise DataError(
            f"{folder}: the gantry was tilted, slices are sheared; resample the series onto a "
            "rectangular grid and give that"
        )


def _numbers(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.split("\\")])


def _tags(reader: sitk.ImageSeriesReader, count: int) -> dict[str, str]:
    """First value of each tag; tube current and exposure change along a scan: their mean."""
    tags = {}
    for name, tag in ACQUISITION_TAGS.items():
        values = [
            reader.GetMetaData(i, tag).strip()
            for i in range(count)
            if reader.HasMetaDataKey(i, tag)
        ]
        values = [value for value in values if value]
        if not values:
            continue
        tags[name] = values[0]
        if name in ("tube_current_ma", "exposure_mas"):
            tags[name] = f"{np.mean([float(value) for value in values]):.0f}"
    return tags
