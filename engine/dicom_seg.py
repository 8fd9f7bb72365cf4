"""Masks as a DICOM Segmentation object (SEG, PS3.3 A.51) that refers to the series it is of.

Needs highdicom (`pip install -r requirements-dicom.txt`). A workstation shows the object on its
series: each segment has a SNOMED CT code, a display color, and the algorithm's name and version.
Of the patient it holds what the standard demands of every object of a study (the attributes of
type 1 and 2 of the modules Patient and General Study), and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.case import DataError, Grid
from data.readers.dicom import place_slices
from data.readers.masks import to_file_order
from data.readers.volume import grid_matrix
from utils.about import NAME, NOTICE
from utils.files import write_atomic

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

Code = tuple[str, str]  # SNOMED CT code, meaning

ANATOMY: Code = ("123037004", "Anatomical Structure")  # categories: CID 7150
ABNORMAL: Code = ("49755003", "Morphologically Abnormal Structure")
PANCREAS: Code = ("15776009", "Pancreas")
NEOPLASM: Code = ("108369006", "Neoplasm")  # of any kind: the network does not grade it

SERIES_NUMBER = 300  # type 1 here; far above those of a scanner's own series
# What may travel from a slice into the object, beside its own name and place.
REQUIRED = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient"),
    "ImageOrientationPatient",
)
EMPTY_IF_ABSENT = (  # type 2: the tag must be there, its value need not
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate"),
    *("StudyTime", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
OPTIONAL = ("SliceThickness", "SpacingBetweenSlices", "SpecificCharacterSet")
SAME_GRID_MM = 1e-3  # two grids whose corners are nearer than that are one


@dataclass(frozen=True)
class Segment:
    """What a mask shows. `rgb`: recommended display color, 0 to 255."""

    label: str
    category: Code
    kind: Code
    rgb: tuple[int, int, int]
    region: Code | None = None


# Masks by target. The colors are those of results in Fig. 5: blue and yellow, which color-blind
# readers tell apart.
SEGMENTS: Mapping[str, Segment] = {
    "pancreas": Segment("Pancreas", ANATOMY, PANCREAS, (255, 220, 0)),
    "tumor": Segment("Pancreatic tumor", ABNORMAL, NEOPLASM, (60, 120, 255), PANCREAS),
}


@dataclass(frozen=True)
class Producer:
    """What made the masks. `version`: of this software. `parameters`: such as the networks' hashes.

    `label`: SeriesDescription, up to 64 characters. `given`: targets whose masks the user brought:
    no algorithm is named for those.
    """

    version: str
    name: str = NAME
    parameters: Mapping[str, str] | None = None
    label: str = "Pancreas and tumor, automatic"
    given: tuple[str, ...] = ()


def write_dicom_seg(
    path: Path,
    masks: Mapping[str, np.ndarray],
    source_files: Sequence[Path | str],
    grid: Grid,
    producer: Producer,
) -> None:
    """Write masks as one DICOM SEG object, atomically.

    `masks`: target ("pancreas", "tumor") -> bool or 0 and 1, (z, y, x), canonical, as
    `engine.cascade.segment` returns them; they may overlap, and may be empty. `source_files`: the
    slices of the series that was segmented, in any order (`choose_series(folder, wanted)[0].files`
    has them). `grid`: of the image that was segmented (`Case.grid`).

    Where `grid` is that of the series as `data.readers` reads it, each frame lies on a slice and
    names it. Where it is another (a tilted or uneven series that was resampled, a converted file),
    the object has a geometry of its own in the series' frame of reference and names the series'
    slices as a whole.

    Raises `DataError` where the slices lack what an object must refer to, or highdicom is not
    installed; `ValueError` where a mask is of another target or not of the grid's size.
    """
    segmentation = make_segmentation(masks, source_files, grid, producer)
    write_atomic(path, segmentation.save_as)


def make_segmentation(
    masks: Mapping[str, np.ndarray],
    source_files: Sequence[Path | str],
    grid: Grid,
    producer: Producer,
) -> Segmentation:
    """The object that `write_dicom_seg` writes."""
    highdicom = require_highdicom()
    if unknown := [name for name in masks if name not in SEGMENTS] or not masks:
        raise ValueError(f"masks of {unknown or 'nothing'}; give {', '.join(SEGMENTS)}")
    if not source_files:
        raise DataError("a DICOM SEG needs the slices of its series; none were given")
    # The classes in fixed order, whatever the mapping's: segment 1 is the pancreas.
    targets = [name for name in SEGMENTS if name in masks]
    pixels = np.stack(
        [to_file_order(masks[name], grid, f"mask of {name}") > 0 for name in targets], axis=-1
    ).astype(np.uint8)
    given = [Path(file) for file in source_files]
    files = _in_order_of(given, grid)
    slices = [_read_slice(file) for file in files or given]
    _check_one_series(slices)
    for header in slices:  # which may be empty in a CT, and is needed in a segmentation
        if header.get("SliceThickness") in (None, ""):
            header.SliceThickness = f"{grid.spacing_xyz[2]:.8g}"
    array: Any = pixels
    if files is None:
        array = highdicom.Volume(
            pixels,
            _affine(grid),
            coordinate_system="PATIENT",
            frame_of_reference_uid=slices[0].FrameOfReferenceUID,
            channels={"SegmentNumber": list(range(1, len(targets) + 1))},
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty mask; a name in an unusual form
        segmentation = highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=array,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(SEGMENTS[name], number, None if name in producer.given else producer)
                for number, name in enumerate(targets, 1)
            ],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=producer.name,
            manufacturer_model_name=producer.name,
            software_versions=producer.version,
            device_serial_number="none",
            content_description=NOTICE,
            content_label="SEGMENTATION",
            series_description=producer.label,
        )
    return segmentation


def require_highdicom() -> Any:
    """The library. Raises `DataError` where it is not installed."""
    try:
        import highdicom
    except ImportError as error:
        raise DataError(
            "writing DICOM SEG needs highdicom: pip install -r requirements-dicom.txt"
        ) from error
    return highdicom


def _in_order_of(source_files: Sequence[Path], grid: Grid) -> list[Path] | None:
    """The slices in the order of the grid's planes; None where they do not lie on it."""
    folder = source_files[0].parent
    try:
        slices, own, _ = place_slices([str(file) for file in source_files], folder)
    except DataError:  # no volume as it is: it was resampled
        return None
    if own.size_xyz != grid.size_xyz:
        return None
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    corners[:, :3] *= np.subtract(own.size_xyz, 1)
    apart = corners @ (grid_matrix(own) - grid_matrix(grid)).T
    return None if np.abs(apart).max() > SAME_GRID_MM else [one.file for one in slices]


def _read_slice(file: Path) -> Dataset:
    """What may travel from a slice into the object. Raises `DataError`."""
    import pydicom

    wanted = [*REQUIRED, *EMPTY_IF_ABSENT, *OPTIONAL]
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=wanted)
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise DataError(f"{file}: cannot be read ({error}); copy the series again") from error
    missing = [name for name in REQUIRED if header.get(name) in (None, "")]
    if missing:
        raise DataError(
            f"{file}: lacks {', '.join(missing)} (removed on the way?), to which a DICOM SEG must "
            "refer; export the series again, or write the masks as NIfTI"
        )
    for name in EMPTY_IF_ABSENT:
        if name not in header:
            setattr(header, name, "")
    return header


def _check_one_series(slices: Sequence[Dataset]) -> None:
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        values = {str(one[name].value) for one in slices}
        if len(values) > 1:
            raise DataError(
                f"{slices[0].filename}: it and {len(slices) - 1} other slices have "
                f"{len(values)} values of {name}; give the slices of one series"
            )


def _affine(grid: Grid) -> np.ndarray:
    """4 x 4: (z, y, x, 1) voxel indices in the file's order -> world, mm, LPS."""
    return grid_matrix(grid)[:, [2, 1, 0, 3]]


def _describe(segment: Segment, number: int, producer: Producer | None) -> SegmentDescription:
    """A segment's entry; without a producer it is "user-entered", as the standard calls MANUAL."""
    highdicom = require_highdicom()
    from pydicom.sr.codedict import codes

    algorithm = None
    if producer is not None:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name=producer.name,
            version=producer.version,
            family=codes.cid7162.ArtificialIntelligence,
            parameters=dict(producer.parameters) if producer.parameters else None,
        )
    kinds = highdicom.seg.SegmentAlgorithmTypeValues
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=_code(segment.category),
        segmented_property_type=_code(segment.kind),
        algorithm_type=kinds.MANUAL if producer is None else kinds.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[_code(segment.region)] if segment.region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.rgb),
    )


def _code(code: Code) -> Any:
    return require_highdicom().sr.CodedConcept(
        value=code[0], scheme_designator="SCT", meaning=code[1]
    )
