"""Pictures of three planes: gray PNG below, contours as paths above."""

from __future__ import annotations

import base64
import re

import cv2
import numpy as np

from data.roi import Box
from report.contents import CaseImages
from report.pictures import draw_planes, encode_png, make_cut, outline
from report.volumes import choose_box, find_foci
from tests._report_fixtures import SHAPE, SPACING, TUMOR, make_images

WHOLE = Box((0, 0, 0), SHAPE)


def decode(address: str) -> np.ndarray:
    head, content = address.split(",")
    assert head == "data:image/png;base64"
    stored = np.frombuffer(base64.b64decode(content), np.uint8)
    picture = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return picture


def test_the_window_of_the_paper_fills_the_gray_range() -> None:
    picture = decode(encode_png(np.array([[-500, -100], [70, 240]], np.int16)))
    assert picture.tolist() == [[0, 0], [127, 255]]


def test_each_plane_shows_its_slice_with_square_pixels() -> None:
    text = draw_planes(make_images(), (8, 19, 19), WHOLE)
    assert re.findall(r"<figcaption>([^<]+)", text) == [
        "axial, slice 9 of 16 from the feet",
        "coronal, slice 20 of 40 from the front",
        "sagittal, slice 20 of 48 from the patient's right",
    ]
    # 48 x 1.25 by 40 x 1.5 mm, 60 by 16 x 5 mm, 60 by 80 mm; the longer side is 480 pixels
    assert re.findall(r'viewBox="0 0 (\d+) (\d+)"', text) == [
        ("480", "480"),
        ("360", "480"),
        ("360", "480"),
    ]
    axial, coronal, sagittal = (decode(a) for a in re.findall(r'href="([^"]+)"', text))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((40, 48), (16, 48), (16, 40))
    gray = np.clip(make_images().image_hu + 100.0, 0, 340) / 340 * 255
    assert np.array_equal(axial, gray[8].astype(np.uint8))
    assert np.array_equal(coronal, gray[::-1, 19].astype(np.uint8))  # the head is up


def test_a_path_runs_along_the_edge_of_its_mask() -> None:
    images = make_images()
    cut = make_cut(SPACING, (8, 19, 19), WHOLE, axis=0)
    mask = np.zeros(SHAPE, bool)
    mask[TUMOR] = True  # rows 14 to 22, columns 12 to 22, at 12 and 10 pixels a voxel
    corners = np.array(re.findall(r"(\d+) (\d+)", outline(mask, cut)), int)
    assert np.allclose(corners.min(axis=0), (120, 168), atol=1)
    assert np.allclose(corners.max(axis=0), (219, 263), atol=1)
    assert outline(np.zeros(SHAPE, bool), cut) == ""
    assert images.label is not None


def test_labels_and_results_are_told_apart_by_class() -> None:
    images = make_images()
    box = choose_box(images, find_foci(images)[0])
    text = draw_planes(images, (8, 19, 19), box)
    for kind in ("result result0", "result result1", "label label1", "label label2"):
        assert text.count(f'<path class="{kind}"') == 3, kind
    bare = CaseImages(images.image_hu, SPACING)
    assert "<path" not in draw_planes(bare, (8, 19, 19), box)
