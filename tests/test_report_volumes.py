"""What a page carries of a case: crop, 8-bit CT, masks as bits, places to go to."""

from __future__ import annotations

import base64
import gzip

import nibabel as nib
import numpy as np
import pytest

from data.roi import Box
from report.contents import CaseImages, Layer
from report.volumes import choose_box, encode_image, encode_masks, find_foci, middle_voxel
from tests._report_fixtures import FOUND, IN_BOTH, PANCREAS, SHAPE, SPACING, TUMOR, make_images


def decode(text: str) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def at_world(image: nib.Nifti1Image, scan: tuple[int, int, int], box: Box) -> float:
    """The value at a voxel (z, y, x) of the scan, by the file's own geometry (right, front, head).

    The scan's x grows to the left and y to the back, so the crop's last voxels are at its origin.
    """
    back = [b - 1 - n for n, b in zip(scan, box.stop, strict=True)]
    world = np.array([back[2] * SPACING[2], back[1] * SPACING[1], (scan[0] - box.start[0]) * 5.0])
    index = np.rint(np.linalg.inv(image.affine) @ [*world, 1]).astype(int)[:3]
    return float(image.get_fdata()[tuple(index)])


def test_the_image_keeps_its_values_to_a_step_and_its_place() -> None:
    images = make_images()
    box = Box((2, 3, 5), (15, 38, 41))
    image = decode(encode_image(images.image_hu[box.slices], SPACING))
    assert image.header.get_data_dtype() == np.uint8
    assert image.header.get_zooms() == (1.25, 1.5, 5.0)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    for voxel in (IN_BOTH, (4, 10, 8), (14, 37, 40), (2, 3, 5)):
        assert abs(at_world(image, voxel, box) - images.image_hu[voxel]) <= 1


def test_air_and_bone_take_the_ends_of_the_range() -> None:
    image = decode(encode_image(np.array([[[-1000, -192, 40, 318, 2000]]], np.int16), SPACING))
    assert image.get_fdata().ravel().tolist() == [318, 318, 40, -192, -192]  # x is mirrored


def test_masks_are_a_bit_each() -> None:
    images = make_images()
    box = Box((0, 0, 0), SHAPE)
    image = decode(encode_masks(images.label, images.layers, box, SPACING))
    assert at_world(image, IN_BOTH, box) == 0b1111
    assert at_world(image, (6, 14, 12), box) == 0b0111  # label's tumor, found pancreas
    assert at_world(image, (4, 10, 8), box) == 0b0101
    assert at_world(image, (0, 0, 0), box) == 0
    data = image.get_fdata().astype(int)
    assert np.count_nonzero(data & 8) == images.layers[1].mask.sum()


def test_a_page_has_no_bit_for_a_seventh_result() -> None:
    layers = [Layer(str(n), "tumor", np.zeros(SHAPE, bool)) for n in range(7)]
    with pytest.raises(ValueError, match="7 layers"):
        encode_masks(None, layers, Box((0, 0, 0), SHAPE), SPACING)


def test_the_first_place_is_the_labels_tumor_then_the_found_one() -> None:
    foci = find_foci(make_images())
    assert [focus.name for focus in foci] == [
        "tumor in the label",
        "tumor found",
        "pancreas in the label",
    ]
    for focus, part in zip(foci, (TUMOR, FOUND, PANCREAS), strict=True):
        assert all(s.start <= n < s.stop for n, s in zip(focus.at, part, strict=True))
    without = find_foci(make_images(label=False))
    assert [focus.name for focus in without] == ["tumor found", "pancreas found"]


def test_where_nothing_is_found_it_is_the_middle() -> None:
    nothing = CaseImages(np.zeros(SHAPE, np.int16), SPACING)
    (focus,) = find_foci(nothing)
    assert focus.at == (8, 20, 24)
    assert choose_box(nothing, focus).fits(SHAPE)


def test_the_middle_voxel_is_in_the_mask_in_its_largest_slice() -> None:
    ring = np.zeros((3, 9, 9), bool)
    ring[1, 1:8, 1:8] = True
    ring[1, 3:6, 3:6] = False  # its center of mass is not in it
    ring[2, 0, 0] = True
    z, y, x = middle_voxel(ring)
    assert z == 1
    assert ring[z, y, x]
    assert max(abs(y - 4), abs(x - 4)) == 2


def test_the_box_holds_label_and_results_with_a_margin() -> None:
    images = make_images()
    box = choose_box(images, find_foci(images)[0])
    # 20 mm are 4 slices of 5 mm, 13 rows of 1.5 mm, 16 columns of 1.25 mm
    assert (box.start, box.stop) == ((0, 0, 0), (16, 39, 48))


def test_a_large_box_shrinks_around_the_focus() -> None:
    images = make_images()
    focus = find_foci(images)[0]
    box = choose_box(images, focus, max_voxels=2000)
    assert np.prod(box.shape) <= 2000
    assert np.prod(box.shape) > 1200
    assert all(a <= n < b for n, a, b in zip(focus.at, box.start, box.stop, strict=True))


def test_arrays_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="tumor is"):
        CaseImages(
            np.zeros(SHAPE, np.int16),
            SPACING,
            None,
            (Layer("tumor", "tumor", np.zeros((2, 2, 2))),),
        )
    layers = (Layer("x", "liver", np.zeros(SHAPE, bool)),)
    with pytest.raises(ValueError, match="'liver' is not"):
        CaseImages(np.zeros(SHAPE, np.int16), SPACING, None, layers)
