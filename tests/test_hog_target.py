"""Histograms of oriented gradients, held against scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.feature import hog
from torch import Tensor

from data.targets.hog import hog_target

SHAPE = (1, 1, 3, 35, 50)  # no multiple of a cell: what is left over is in no cell


def random_image(seed: int = 0) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("cell", "orientations"), [(8, 9), (4, 6), (5, 9)])
def test_it_is_scikit_images_descriptor(cell: int, orientations: int) -> None:
    image = random_image()
    found = hog_target(image, cell, orientations)
    assert found.shape == (1, orientations, 3, 35 // cell, 50 // cell)
    for z, plane in enumerate(image[0, 0].numpy()):
        expected = hog(
            plane,
            orientations=orientations,
            pixels_per_cell=(cell, cell),
            cells_per_block=(1, 1),
            block_norm="L2-Hys",
            feature_vector=False,
        )
        np.testing.assert_allclose(
            found[0, :, z].permute(1, 2, 0), expected[:, :, 0, 0], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("flip", [False, True])
def test_an_edge_across_columns_is_in_bin_0_and_its_transpose_in_bin_4(flip: bool) -> None:
    image = torch.zeros(1, 1, 1, 16, 16)
    image[..., 8:] = 0.5
    if flip:
        image = 0.5 - image
    across, along = hog_target(image), hog_target(image.transpose(3, 4))
    for histogram, index in ((across[0, :, 0, 0, 1], 0), (along[0, :, 0, 1, 0], 4)):
        torch.testing.assert_close(histogram, torch.eye(9)[index])


def test_contrast_does_not_count() -> None:
    image = random_image()
    torch.testing.assert_close(hog_target(3 * image), hog_target(image), atol=1e-4, rtol=0)
    torch.testing.assert_close(hog_target(image + 5), hog_target(image), atol=1e-3, rtol=0)


def test_a_flat_cell_is_zero_and_any_other_has_length_1() -> None:
    image = random_image()
    image[..., :32, :32] = 0.7
    found = hog_target(image)
    norm = found.square().sum(dim=1).sqrt()  # (1, z, y / 8, x / 8)
    assert torch.equal(norm[..., :3, :3], torch.zeros(1, 3, 3, 3))
    torch.testing.assert_close(norm[..., 4:], torch.ones(1, 3, 4, 2))


def test_it_has_no_gradient_a_floating_type_and_does_not_change_the_image() -> None:
    image = random_image().bfloat16().requires_grad_()
    before = image.detach().clone()
    found = hog_target(image)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert 0 < found.mean() < found.max() <= 1
    assert torch.equal(image, before)


@pytest.mark.parametrize("shape", [(1, 2, 3, 16, 16), (1, 3, 16, 16), (1, 1, 3, 7, 16)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \(b, 1, z, y, x\) with slices of one cell"):
        hog_target(torch.zeros(shape))
