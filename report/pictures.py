"""Pictures of a case: three planes through one voxel, the CT as PNG, contours as SVG paths.

They need no WebGL and stay sharp at any size; the page's colors, switches and opacity hold for
them too, since a contour is an element of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Triple
from data.intensity import HU_WINDOW
from data.roi import Box
from report.contents import CaseImages
from report.volumes import MAX_LAYERS, Voxel
from reproduce.analysis.overlays import Cut, contour_points

PLANE_NAMES = ("axial", "coronal", "sagittal")  # by the array's axis that they cut
COUNTED_FROM = ("the feet", "the front", "the patient's right")
PATH_TOLERANCE = 0.4  # pixels that a path may miss the contour by


def draw_planes(images: CaseImages, at: Voxel, box: Box) -> str:
    """Three `<figure>` elements: the planes through voxel `at`, as far as `box` reaches.

    Classes of the paths: label1 (pancreas), label2 (tumor), result0, result1, ... by layer.
    """
    figures = []
    for axis, name in enumerate(PLANE_NAMES):
        cut = make_cut(images.spacing, at, box, axis)
        count = images.image_hu.shape[axis]
        number = f"{name}, slice {at[axis] + 1} of {count} from {COUNTED_FROM[axis]}"
        figures.append(
            f'<figure class="plane {name}">{draw_plane(images, cut, number)}'
            f"<figcaption>{number}</figcaption></figure>"
        )
    return "".join(figures)


def make_cut(spacing: Triple, at: Voxel, box: Box, axis: int) -> Cut:
    """The plane of an axis through `at`, cut to `box`."""
    rows, columns = (a for a in range(3) if a != axis)
    window = (box.slices[rows], box.slices[columns])
    return Cut(axis, at[axis], window, (spacing[rows], spacing[columns]))


def draw_plane(images: CaseImages, cut: Cut, title: str) -> str:
    """One plane as an `<svg>` element."""
    width, height = cut.size
    masks: list[tuple[str, np.ndarray]] = [
        (f"result result{number}", layer.mask)
        for number, layer in enumerate(images.layers[:MAX_LAYERS])
    ]
    if images.label is not None:
        masks += [
            ("label label1", images.label >= LABEL_PANCREAS),
            ("label label2", images.label == LABEL_TUMOR),
        ]
    paths = "".join(
        f'<path class="{kind}" d="{path}"/>' for kind, mask in masks if (path := outline(mask, cut))
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="{encode_png(cut.take(images.image_hu))}"/>{paths}</svg>'
    )


def encode_png(plane_hu: np.ndarray) -> str:
    """HU (rows, columns) in the window of Sec. IV-A as a gray PNG, a data: address."""
    import cv2

    low, high = HU_WINDOW
    gray = np.clip((plane_hu.astype(np.float32) - low) / (high - low), 0, 1) * 255
    done, content = cv2.imencode(".png", gray.astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode("ascii")


def outline(mask: np.ndarray, cut: Cut) -> str:
    """The contours of a mask in a plane as a path's data, in the picture's pixels; "" for none."""
    return "".join(_path(points) for points in contour_points(mask, cut))


def _path(points: np.ndarray) -> str:
    import cv2

    kept = cv2.approxPolyDP(points.astype(np.int32).reshape(-1, 1, 2), PATH_TOLERANCE, True)
    corners: Sequence[Sequence[int]] = kept[:, 0].tolist()
    return "M" + "L".join(f"{x} {y}" for x, y in corners) + "Z"
