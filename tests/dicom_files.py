"""Small DICOM files that the tests write themselves: CT series in any direction, SEG, RTSTRUCT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage

SPACING = (2.5, 0.8, 0.7)  # mm, (between slices, between rows, between columns)
ORIGIN = (-31.5, 12.25, -404.0)
STUDY, SERIES, FRAME = "1.2.826.0.1.1", "1.2.826.0.1.1.2", "1.2.826.0.1.1.3"


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.divide(axis, np.linalg.norm(axis))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def stored_values(seed: int = 0, shape: tuple[int, int, int] = (5, 6, 7)) -> np.ndarray:
    """HU, every voxel another one, so that a mask by threshold has a known place in the files."""
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape))
    return (rng.permutation(count) * 4 - 2 * count).reshape(shape).astype(np.int16)


def new_dataset(sop_class: str, instance: str) -> Dataset:
    """An empty data set with what every DICOM file begins with."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = UID(sop_class), UID(instance)
    return ds


def write_series(
    folder: Path,
    stored: np.ndarray,
    axes: np.ndarray | None = None,
    order: Sequence[int] | None = None,
    tilt_mm: float = 0.0,
    changed: Mapping[str, object] | None = None,
) -> list[Path]:
    """A CT series of `stored` HU, int16 (slice, row, column); its files in the slices' order.

    `axes`: 3 x 3, columns are the world directions of x (along a row), y and z. `order`: the number
    of each slice's file. `tilt_mm`: how far each slice is shifted along its columns against the one
    before. `changed`: tags by keyword, None takes a tag out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.eye(3) if axes is None else np.asarray(axes, float)
    names = list(range(len(stored)) if order is None else order)
    paths = []
    for z, plane in enumerate(stored):
        ds = new_dataset(CTImageStorage, f"{SERIES}.{z + 1}")
        ds.PatientName, ds.PatientID = "Doe^Jane", "P-17"
        ds.PatientBirthDate, ds.PatientSex = "19700101", "F"
        ds.PatientAge, ds.PatientWeight, ds.PatientComments = "055Y", "70", "a comment"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = STUDY, SERIES, FRAME
        ds.StudyID, ds.StudyDate, ds.StudyTime = "1", "20250102", "101112"
        ds.StudyDescription, ds.InstitutionName = "a study", "a hospital"
        ds.AccessionNumber, ds.ReferringPhysicianName = "A1", "Roe^Richard"
        ds.Modality, ds.Manufacturer = "CT", "SCANNER"
        ds.SeriesNumber, ds.InstanceNumber, ds.PositionReferenceIndicator = 2, z + 1, ""
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        position = np.asarray(ORIGIN) + axes @ (0, z * tilt_mm, z * SPACING[0])
        ds.ImagePositionPatient = [f"{mm:.10g}" for mm in position]
        ds.ImageOrientationPatient = [f"{cosine:.10g}" for cosine in axes[:, :2].T.ravel()]
        ds.PixelSpacing, ds.SliceThickness = [str(SPACING[1]), str(SPACING[2])], str(SPACING[0])
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept, ds.RescaleSlope, ds.KVP = "0", "1", "120"
        ds.PixelData = np.ascontiguousarray(plane, np.int16).tobytes()
        for keyword, value in (changed or {}).items():
            if value is None:
                delattr(ds, keyword)
            else:
                setattr(ds, keyword, value)
        path = folder / f"IM{names[z]:04d}"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


AXES = {  # of a series: columns are the world directions of x (along a row), y and z
    "head first, supine": np.eye(3),
    "head first, prone": np.diag([-1.0, -1.0, 1.0]),
    "feet first, supine": np.diag([-1.0, 1.0, -1.0]),
    "feet first, prone": np.diag([1.0, -1.0, -1.0]),
    "on the side": np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    "sagittal": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "oblique": rotation((1, 2, 3), 25),
}
Loop = tuple[str, float, list[tuple[float, float]]]  # type, slice, (row, column) of each point


def box(slice_: float, rows: tuple[int, int], columns: tuple[int, int], kind: str = "") -> Loop:
    """A rectangle around the pixels from the first up to, without, the last row and column."""
    (top, bottom), (left, right) = rows, columns
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return kind or "CLOSED_PLANAR", slice_, [(r - 0.5, c - 0.5) for r, c in corners]


def write_structure_set(
    path: Path,
    regions: Mapping[str, Sequence[Loop]],
    axes: np.ndarray | None = None,
    frame: str = FRAME,
    series: str = SERIES,
) -> Path:
    """An RTSTRUCT for a series of `write_series`, with contours in voxels of that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = np.eye(3) if axes is None else axes
    ds = new_dataset(RTStructureSetStorage, f"{SERIES}.900")
    ds.Modality, ds.PatientID, ds.StructureSetLabel = "RTSTRUCT", "P-17", "labels"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, f"{SERIES}.901"
    named, study, reference = Dataset(), Dataset(), Dataset()
    named.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [named]
    reference.FrameOfReferenceUID, reference.RTReferencedStudySequence = frame, [study]
    ds.ReferencedFrameOfReferenceSequence = [reference]
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, loops) in enumerate(regions.items(), 1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        region.ReferencedFrameOfReferenceUID, region.ROIGenerationAlgorithm = frame, "MANUAL"
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for kind, slice_, points in loops:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            voxels = [(c * SPACING[2], r * SPACING[1], slice_ * SPACING[0]) for r, c in points]
            places = np.asarray(ORIGIN) + np.array(voxels) @ axes.T
            contour.ContourData = [f"{mm:.6f}" for mm in places.ravel()]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(region)
        ds.ROIContourSequence.append(drawn)
    ds.save_as(path, enforce_file_format=True)
    return path
