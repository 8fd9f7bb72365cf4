"""Doubles: the same scan is found again however it was saved, another scan never."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from data.prepare.duplicates import find_doubles, fingerprint, thumbnail
from data.prepare.resample import grid_weights, output_shape, resample_image


@dataclass
class Scan:
    case_id: str
    image_hu: np.ndarray
    center: str = "A"

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.image_hu)

    @property
    def thumbnail(self) -> np.ndarray:
        return thumbnail(self.image_hu)


def make_scan(seed: int, shape: tuple[int, int, int] = (40, 96, 96)) -> np.ndarray:
    """A body of smooth organs with noise, int16 HU."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    body = (y / 0.7) ** 2 + (x / 0.9) ** 2 + 0 * z < 1
    organs = ndimage.gaussian_filter(rng.normal(0, 1, shape), 5)
    image = np.where(body, 40 + 2500 * organs, -1000) + rng.normal(0, 10, shape)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def pairs(*scans: np.ndarray) -> list[tuple[str, str]]:
    cases = [Scan(str(number), image_hu) for number, image_hu in enumerate(scans)]
    return [(a.case_id, b.case_id) for a, b in find_doubles(cases)]


def test_different_scans_are_no_doubles() -> None:
    assert pairs(*(make_scan(seed) for seed in range(12))) == []


def test_copies_turned_mirrored_or_padded_otherwise_are_doubles() -> None:
    scan = make_scan(0)
    padded = scan.copy()
    padded[padded < -900] = -1024
    copies = [scan[::-1, :, ::-1], scan.transpose(2, 0, 1), padded]
    for copy in copies:
        assert pairs(scan, make_scan(1), copy) == [("0", "2")]


def test_a_resampled_or_noisier_copy_is_a_double() -> None:
    scan = make_scan(0)
    shape = output_shape(scan.shape, (2.5, 0.8, 0.8), (1.5, 1.0, 1.0))
    resampled = resample_image(scan, grid_weights(scan.shape, (2.5, 0.8, 0.8), shape, (1.5, 1, 1)))
    noisy = scan + np.random.default_rng(5).integers(-9, 10, scan.shape).astype(np.int16)
    assert pairs(scan, resampled) == [("0", "1")]
    assert pairs(scan, make_scan(1), noisy) == [("0", "2")]
    assert pairs(scan, resampled[:, ::-1]) == [("0", "1")]


def test_three_copies_are_two_pairs_with_the_first_at_least() -> None:
    scan = make_scan(0)
    assert {("0", "1"), ("0", "2")} <= set(pairs(scan, scan.copy(), scan.copy()))


def test_the_fingerprint_ignores_place_and_padding_and_nothing_else() -> None:
    scan = make_scan(0)
    assert fingerprint(scan[:, ::-1]) == fingerprint(scan)
    changed = scan.copy()
    changed[20, 48, 48] += 1
    assert fingerprint(changed) != fingerprint(scan)
    assert fingerprint(scan[:-1]) != fingerprint(scan)
