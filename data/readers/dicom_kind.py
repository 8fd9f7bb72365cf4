"""Which DICOM files are labels: segmentation objects and structure sets, among images."""

from __future__ import annotations

from pathlib import Path

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
LABEL_CLASSES = (SEGMENTATION, LABEL_MAP_SEGMENTATION, STRUCTURE_SET)


def sop_class(path: Path) -> str:
    """The SOP class UID that a DICOM file begins with; "" where it has none, or cannot be read."""
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info

    try:
        meta = read_file_meta_info(path)
    except (OSError, InvalidDicomError, ValueError, EOFError, KeyError):
        return ""
    return str(meta.get("MediaStorageSOPClassUID") or "")


def is_dicom_label(path: Path) -> bool:
    """Whether a file is a DICOM segmentation (SEG) or structure set (RTSTRUCT)."""
    return sop_class(path) in LABEL_CLASSES
