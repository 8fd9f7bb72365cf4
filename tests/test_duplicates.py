"""Duplicates: the same scan is found again however it was saved or cut, another scan never."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.case import DataError, Triple
from data.prepare.duplicates import (
    find_duplicates,
    find_leaks,
    judge_duplicates,
    keep_unseen,
)
from data.prepare.resample import grid_weights, output_shape, resample_image
from data.prepare.signature import (
    FINGERPRINT_SIZE,
    Signature,
    fingerprint,
    from_plain,
    from_text,
    sign_image,
    signatures_of,
    slabs_of,
    to_plain,
    to_text,
)
from data.readers import load_image

SPACING = (4.0, 3.0, 3.0)


def make_scan(seed: int, shape: tuple[int, int, int] = (40, 96, 96)) -> np.ndarray:
    """A body of smooth organs with noise, int16 HU."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    height, width = rng.uniform(0.5, 0.8, 2)
    body = (y / (height + 0.15 * z)) ** 2 + (x / (width + 0.15 * z)) ** 2 < 1
    organs = ndimage.gaussian_filter(rng.normal(0, 1, shape), 5)
    image = np.where(body, 40 + 2500 * organs, -1000) + rng.normal(0, 10, shape)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)


def sign(image_hu: np.ndarray, name: str = "0", spacing: Triple = SPACING) -> Signature:
    return sign_image("A", name, image_hu, spacing)


def resample(image_hu: np.ndarray, spacing: Triple) -> np.ndarray:
    shape = output_shape(image_hu.shape, SPACING, spacing)
    return resample_image(image_hu, grid_weights(image_hu.shape, SPACING, shape, spacing))


def pairs(*scans: np.ndarray, spacing: Triple = SPACING) -> list[tuple[str, str, str]]:
    """What is found among scans; `spacing` is that of the last."""
    signatures = [sign(image_hu, str(number)) for number, image_hu in enumerate(scans)]
    signatures[-1] = sign(scans[-1], str(len(scans) - 1), spacing)
    return [(d.first.case_id, d.second.case_id, d.sign) for d in find_duplicates(signatures)]


def test_different_scans_are_no_duplicates() -> None:
    assert pairs(*(make_scan(seed) for seed in range(12))) == []


def make_similar(seed: int) -> np.ndarray:
    """One body for all seeds, with the same organs, each up to 16 mm elsewhere; 5 x 4 x 4 mm."""
    rng = np.random.default_rng(seed)
    voxels = np.stack(np.meshgrid(*(np.arange(n) for n in (40, 72, 96)), indexing="ij"), axis=-1)
    places = (voxels - (20.0, 36.0, 48.0)) * (5, 4, 4)
    organs = [  # HU, middle (z, y, x) and radii, mm
        (-100, (0, 0, 0), (1e6, 118, 165)),
        (40, (0, 0, 0), (1e6, 100, 145)),
        (110, (50, -20, -80), (60, 65, 60)),
        (-900, (60, -50, 50), (40, 30, 35)),
        (450, (0, 70, 0), (1e6, 25, 22)),
        (180, (-30, 40, -75), (45, 25, 25)),
        (180, (-20, 40, 80), (45, 25, 25)),
    ]
    image = np.full(places.shape[:3], -1000.0)
    for hu, middle, radii in organs:
        moved = np.add(middle, rng.uniform(-16, 16, 3) if radii[0] < 1e6 else 0)
        image[(((places - moved) / radii) ** 2).sum(axis=-1) < 1] = hu
    return np.rint(image + rng.normal(0, 12, image.shape)).clip(-1024, 3071).astype(np.int16)


def test_bodies_of_one_shape_are_no_copies() -> None:
    signatures = [sign(make_similar(seed), str(seed), (5.0, 4.0, 4.0)) for seed in range(8)]
    assert find_duplicates(signatures) == []


def pad(scan: np.ndarray) -> np.ndarray:
    return np.pad(scan, ((3, 1), (0, 9), (5, 2)), constant_values=-1024)


EXACT = {
    "saved again": lambda scan: scan.copy(),
    "turned": lambda scan: scan.transpose(2, 0, 1),
    "mirrored": lambda scan: scan[::-1, :, ::-1],
    "padded": pad,
    "clamped": lambda scan: np.clip(scan, -100, 240),
    "offset": lambda scan: scan + 7,
    "lower 30 % cut": lambda scan: scan[12:],
    "upper 70 % cut": lambda scan: scan[:12],
    "both ends cut": lambda scan: scan[8:-8],
    "cropped in plane": lambda scan: scan[:, 25:75, 30:70],
    "cropped, turned, padded, offset": lambda scan: pad(scan[8:30, 20:-20, 20:-20].T) + 1,
}


@pytest.mark.parametrize("kind", EXACT)
def test_a_copy_that_keeps_a_part_of_the_voxels_is_found_by_its_fingerprint(kind: str) -> None:
    scan = make_scan(0)
    copy = np.ascontiguousarray(EXACT[kind](scan))
    assert pairs(scan, make_scan(1), copy) == [("0", "2", "fingerprint")]


CHANGED = {
    "noisy": (lambda scan: add_noise(scan), SPACING, "thumbnail"),
    "resampled": (lambda scan: resample(scan, (2.5, 2.0, 2.0)), (2.5, 2.0, 2.0), "thumbnail"),
    "resampled, wrong spacing": (
        lambda scan: resample(scan, (2.5, 2.0, 2.0)),
        (1.0, 1.0, 1.0),
        "thumbnail",
    ),
    "resampled, turned": (
        lambda scan: resample(scan, (2.0, 2.0, 2.0)).transpose(1, 2, 0)[::-1],
        (2.0, 2.0, 2.0),
        "thumbnail",
    ),
    "padded, noisy": (lambda scan: add_noise(pad(scan)), SPACING, "slabs"),
    "30 % cut, noisy": (lambda scan: add_noise(scan[12:]), SPACING, "slabs"),
    "padded, resampled, noise of 40 HU": (
        lambda scan: resample(pad(add_noise(scan, 69)), (3.0, 2.0, 2.0)),
        (3.0, 2.0, 2.0),
        "slabs",
    ),
    "both ends cut, resampled, mirrored": (
        lambda scan: resample(scan[6:-6], (2.0, 2.0, 2.0))[::-1, ::-1],
        (2.0, 2.0, 2.0),
        "slabs",
    ),
}


def add_noise(scan: np.ndarray, most: int = 1) -> np.ndarray:
    return scan + np.random.default_rng(5).integers(-most, most + 1, scan.shape).astype(np.int16)


@pytest.mark.parametrize("kind", CHANGED)
def test_a_copy_whose_voxels_all_changed_is_found_by_its_look(kind: str) -> None:
    change, spacing, sign_of_it = CHANGED[kind]
    scan = make_scan(0)
    copy = np.ascontiguousarray(change(scan))
    assert pairs(scan, make_scan(1), copy, spacing=spacing) == [("0", "2", sign_of_it)]


def test_a_stretch_of_slabs_is_found_in_the_longer_scan_whichever_comes_first() -> None:
    long, short = sign(make_scan(3)), sign(add_noise(make_scan(3)[9:]), "1")
    for order in ([long, short], [short, long]):
        (found,) = find_duplicates(order)
        assert (found.first, found.second) == tuple(order)
        assert found.similarity > 0.99


def test_similarity_is_the_part_of_the_smaller_scan_that_the_other_has() -> None:
    scan = make_scan(0)
    lower, upper = sign(scan[:30], "lower"), sign(scan[10:], "upper")
    (whole,) = find_duplicates([sign(scan), lower])
    assert whole.similarity == pytest.approx(1, abs=0.01)
    (overlap,) = find_duplicates([lower, upper])
    assert overlap.similarity == pytest.approx(20 / 30, abs=0.15)


def test_three_copies_are_three_pairs() -> None:
    scan = make_scan(0)
    found = pairs(scan, scan.copy(), scan.copy())
    assert [pair[:2] for pair in found] == [("0", "1"), ("0", "2"), ("1", "2")]


def test_scans_are_compared_a_few_at_a_time_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = make_scan(1), make_scan(2)
    scans = (one, make_scan(0), two, add_noise(two), one[9:], one.transpose(1, 2, 0))
    signatures = [sign(scan, str(k)) for k, scan in enumerate(scans)]
    cases = [Prepared(signature) for signature in signatures[3:]]
    whole, leaks = find_duplicates(signatures), find_leaks(signatures[:3], cases)
    assert {(x.first.case_id, x.second.case_id) for x in whole} >= {("0", "4"), ("2", "3")}
    assert len({x.sign for x in whole}) > 1
    for limit in ("_AT_ONCE", "_PAIRS_AT_ONCE"):
        monkeypatch.setattr(f"data.prepare.mirrored.{limit}", 1)
    parts = find_duplicates(signatures)
    assert [(x.first, x.second, x.sign) for x in parts] == [
        (x.first, x.second, x.sign) for x in whole
    ]
    # sums of another length end in other last bits
    assert [x.similarity for x in parts] == pytest.approx([x.similarity for x in whole], abs=1e-5)
    assert find_leaks(signatures[:3], cases) == leaks


def test_constant_and_tiny_images_are_like_nothing() -> None:
    constant = np.full((9, 9, 9), 40, np.int16)
    assert pairs(constant, constant, np.zeros((1, 2, 2), np.int16)) == []
    assert find_duplicates([]) == []


def test_a_fingerprint_is_small_sorted_and_changes_with_no_place() -> None:
    scan = make_scan(0)
    found = fingerprint(scan)
    assert found.dtype == np.uint64
    assert len(found) == FINGERPRINT_SIZE
    assert (np.diff(found.astype(object)) > 0).all()
    for copy in (scan[:, ::-1], scan.transpose(1, 2, 0), pad(scan)):
        np.testing.assert_array_equal(fingerprint(copy), found)


def test_a_fingerprint_does_not_depend_on_how_the_image_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = make_scan(0)
    whole = fingerprint(scan)
    monkeypatch.setattr("data.prepare.signature._VOXELS_AT_ONCE", 3 * scan[0].size)
    np.testing.assert_array_equal(fingerprint(scan), whole)


def test_the_hash_of_one_maximum_is_the_same_on_every_machine() -> None:
    image = np.zeros((3, 3, 3), np.int16)
    image[1, 1, 1] = 5
    drops = {1: 6, 2: 12, 3: 8}  # neighbors across a face, an edge, a corner: all 5 HU below
    total = sum(count * splitmix64((kind << 16) + 5) for kind, count in drops.items())
    expected = splitmix64(total % 2**64)
    assert fingerprint(image).tolist() == [expected]
    assert fingerprint(image + 100).tolist() == [expected]
    assert fingerprint(image + 240).tolist() == []  # outside the window
    image[1, 1, 2] = 5
    assert fingerprint(image).tolist() == []  # no maximum of its own


def splitmix64(value: int) -> int:
    """The published function, in whole numbers without a limit."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def test_slabs_follow_height_in_millimeters_and_extents_the_body() -> None:
    z, y, x = np.ogrid[0:20, 0:80, 0:100]
    body = ((y - 40) / 20) ** 2 + ((x - 45) / 30) ** 2 + 0 * z < 1
    image = np.where(body, 140, -1000).astype(np.int16)
    image[:3] = image[17:] = -1000  # padding
    slabs, extents_mm = slabs_of(image, (4.0, 2.0, 1.5))
    assert slabs.shape == (7, 12, 12)
    extents = np.tile([2 * 20 * 2.0, 2 * 30 * 1.5], (7, 1))
    assert extents_mm == pytest.approx(extents, rel=0.03)  # the border is averaged over 4 mm
    assert slabs[3, 6, 6] == round(255 * 240 / 340)
    assert slabs[3, 0, 0] == 0


def test_signatures_survive_a_checkpoint_and_a_json_file() -> None:
    signatures = [
        sign(make_scan(0)),
        sign(make_scan(1, (20, 60, 60)), "b"),
        sign(np.zeros((3, 3, 3), np.int16)),
    ]
    stream = io.BytesIO()
    torch.save(to_plain(signatures), stream)
    stream.seek(0)
    loaded = from_plain(torch.load(stream, weights_only=True))
    texts = [from_text(s.center, s.case_id, to_text(s)) for s in signatures]
    for copies in (loaded, texts):
        for copy, signature in zip(copies, signatures, strict=True):
            assert (copy.center, copy.case_id) == (signature.center, signature.case_id)
            for name in ("fingerprint", "thumbnail", "slabs", "extents_mm"):
                kept, original = getattr(copy, name), getattr(signature, name)
                assert kept.dtype == original.dtype
                np.testing.assert_array_equal(kept, original)
    assert from_plain(to_plain([])) == []
    size = sum(v.nbytes for v in vars(signatures[0]).values() if isinstance(v, np.ndarray))
    assert size < 20_000


def test_damaged_signatures_are_refused_by_cause() -> None:
    content = to_plain([sign(make_scan(0))])
    del content["slabs"]
    with pytest.raises(ValueError, match=r"signatures of the training scans cannot be read.*slabs"):
        from_plain(content)


@dataclass
class Prepared:
    signature: Signature


def test_a_trained_scan_is_a_leak_under_any_name_and_an_unseen_one_is_none() -> None:
    trained = [replace(sign(make_scan(k)), center="MSD", case_id=f"m{k}") for k in range(3)]
    cases = [
        Prepared(replace(sign(image_hu), center="X", case_id=name))
        for name, image_hu in (
            ("unseen", make_scan(7)),
            ("cut", make_scan(1)[12:]),
            ("noisy", add_noise(make_scan(2))),
        )
    ]
    assert find_leaks(trained, cases) == [(cases[1], "MSD/m1"), (cases[2], "MSD/m2")]
    assert find_leaks([], cases) == []
    assert find_leaks(trained, []) == []
    assert signatures_of(cases) == [case.signature for case in cases]
    kept, sentences = keep_unseen(trained, cases, drop_leaked=True)
    assert kept == cases[:1]
    assert sentences[0] == "X/cut is MSD/m1, which trained this run"
    with pytest.raises(DataError) as error:
        keep_unseen(trained, cases, drop_leaked=False)
    assert error.value.problems[:2] == tuple(sentences)
    assert "2 of 3 cases are no test" in error.value.problems[2]
    assert "--drop-leaked" in error.value.problems[2]
    assert keep_unseen(trained, cases[:1], drop_leaked=False) == (cases[:1], [])


def test_a_center_that_drops_duplicates_loses_its_copy_and_no_other_does() -> None:
    scan = make_scan(0)
    first, second = replace(sign(scan), center="A"), replace(sign(scan, "1"), center="B")
    duplicates = find_duplicates([first, second])
    dropped, problems = judge_duplicates(duplicates, {"B"})
    assert (dropped, problems) == ({("B", "1"): "A/0"}, [])
    dropped, problems = judge_duplicates(duplicates, {"A"})
    assert (dropped, problems) == ({("A", "0"): "B/1"}, [])
    dropped, problems = judge_duplicates(duplicates, ())
    assert dropped == {}
    (problem,) = problems
    assert problem.startswith("A/0 and B/1 are the same scan: ")
    assert "drop_duplicates = true" in problem
    assert "fingerprint, similarity 1.000" in problem


@pytest.mark.skipif("REAL_CT_DIR" not in os.environ, reason="REAL_CT_DIR names no real CT")
@pytest.mark.parametrize("name", ["totalseg/example_ct.nii.gz", "crlm/crlm1004_ct.nii.gz"])
def test_copies_of_a_real_ct_are_found(name: str) -> None:
    case = load_image(Path(os.environ["REAL_CT_DIR"]) / name, "ct")
    original = sign_image("A", "ct", case.image_hu, case.spacing)
    cut = case.image_hu[round(0.3 * len(case.image_hu)) :]
    kinds = {
        "fingerprint": (pad(case.image_hu), cut, cut[:, 30:-30, 30:-30] + 1),
        "slabs": (add_noise(pad(case.image_hu)), add_noise(cut)),
        "thumbnail": (add_noise(case.image_hu),),
    }
    for expected, copies in kinds.items():
        for copy in copies:
            (found,) = find_duplicates([original, sign_image("B", "x", copy, case.spacing)])
            assert found.sign == expected
