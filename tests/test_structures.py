"""Structures: a mask for each organ, as PanTS and TotalSegmentator have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.case import Center, DataError
from data.readers import list_cases, list_center, load_case
from tests.volumes import make_image_hu, make_label, write_volume


def write_masks(folder: Path, **masks: np.ndarray) -> None:
    for name, mask in masks.items():
        write_volume(folder / f"{name}.nii.gz", mask.astype(np.uint8))


def pants(root: Path, name: str = "PanTS_00000001", seed: int = 0) -> Center:
    write_volume(root / "ImageTr" / name / "ct.nii.gz", make_image_hu(seed))
    label = make_label()
    write_masks(
        root / "LabelTr" / name / "segmentations",
        pancreas=label == 1,
        pancreatic_lesion=label == 2,
        aorta=np.roll(label > 0, 1, 0),
    )
    return Center("P", "structures", root)


def test_pants_masks_are_joined_and_the_tumor_wins(tmp_path: Path) -> None:
    center = pants(tmp_path)
    (files,) = list_cases(center)
    assert files.case_id == "PanTS_00000001"
    case = load_case(center, files)
    np.testing.assert_array_equal(case.image_hu, make_image_hu())
    np.testing.assert_array_equal(case.label, make_label())
    write_masks(
        tmp_path / "LabelTr" / "PanTS_00000001" / "segmentations", pancreas=make_label() > 0
    )
    np.testing.assert_array_equal(load_case(center, files).label, make_label())


def test_totalsegmentator_keeps_image_and_masks_in_one_folder(tmp_path: Path) -> None:
    write_volume(tmp_path / "s0001" / "ct.nii.gz", make_image_hu())
    masks = tmp_path / "s0001" / "segmentations"
    write_masks(masks, pancreas=255 * (make_label() > 0), liver=make_label() * 0)
    center = Center("T", "structures", tmp_path, has_lesions=False)
    case = load_case(center, list_cases(center)[0])
    np.testing.assert_array_equal(case.label, make_label() > 0)
    with_lesions = Center("T", "structures", tmp_path)
    with pytest.raises(DataError, match=r"T/s0001: .*has no mask pancreatic_lesion; fetch it"):
        load_case(with_lesions, list_cases(with_lesions)[0])


def test_the_names_of_the_masks_can_be_given(tmp_path: Path) -> None:
    label = make_label()
    write_volume(tmp_path / "a" / "scan_ct.nii.gz", make_image_hu())
    write_masks(tmp_path / "a", head=label == 1, tail=label == 5, cancer=label == 2)
    names = {"pancreas": ("head", "tail"), "tumor": ("cancer",)}
    center = Center("S", "structures", tmp_path, structures=names, labels=".")
    np.testing.assert_array_equal(load_case(center, list_cases(center)[0]).label, label)
    other = Center("S", "structures", tmp_path, structures={"pancreas": ("body",)})
    with pytest.raises(DataError, match=r"has no mask body.*structures"):
        load_case(other, list_cases(other)[0])


def test_folders_without_their_partner_are_named(tmp_path: Path) -> None:
    center = pants(tmp_path)
    (tmp_path / "ImageTr" / "PanTS_00000002").mkdir()
    (tmp_path / "ImageTr" / "PanTS_00000002" / "ct.npz").write_bytes(b"")
    write_masks(tmp_path / "LabelTr" / "PanTS_00000003" / "segmentations", pancreas=make_label())
    (tmp_path / "LabelTr" / "PanTS_00000004").mkdir()
    listing = list_center(center)
    assert (listing.images, listing.labels, listing.paired) == (1, 2, 1)
    left_out = {Path(path).name: reason for path, reason in listing.left_out}
    assert "holds no image ct.nii.gz, but ct.npz" in left_out["PanTS_00000002"]
    assert "holds no folder segmentations" in left_out["PanTS_00000004"]
    orphan = listing.cases[1]
    assert orphan.case_id == "PanTS_00000003"
    assert "has no image of the same name" in str(orphan.problem)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    center = pants(tmp_path)
    folder = tmp_path / "LabelTr" / "PanTS_00000001" / "segmentations"
    write_masks(folder, pancreas=make_label((5, 6, 8)) > 0)
    with pytest.raises(DataError, match=r"P/PanTS_00000001: .*pancreas\.nii\.gz: label does not"):
        load_case(center, list_cases(center)[0])
