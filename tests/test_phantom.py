"""Synthetic centers: what is drawn, what a label means, that seeds decide everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.bench_phantom_windows import best_window_dice
from data.phantom import lesion as lesions
from data.phantom.anatomy import Tissue
from data.phantom.appearance import add_scanner, average, draw_look, majority
from data.phantom.centers import APART, CENTERS, LIKE_TABLE_I
from data.phantom.generate import Phantom, make_phantom, plan_case
from data.phantom.paint import paint_slab
from data.phantom.shapes import Axes, Ellipsoid, SmoothField, Tube

SEED = 7
WITH_LESIONS = [name for name, center in CENTERS.items() if center.lesions is not None]


@pytest.fixture(scope="module")
def phantoms() -> dict[tuple[str, int], Phantom]:
    return {(name, i): make_phantom(name, i, "demo", SEED) for name in CENTERS for i in range(2)}


def _axes(extent: float, step: float) -> Axes:
    line = np.arange(-extent, extent + step / 2, step, dtype=np.float32)
    return Axes(line, line, line)


def test_a_sphere_has_its_exact_distance_and_volume() -> None:
    axes = _axes(12, 0.5)
    box, distance = Ellipsoid(np.zeros(3), np.full(3, 8.0), ((0, 1),)).distance(axes)
    z, y, x = np.meshgrid(axes.z[box[0]], axes.y[box[1]], axes.x[box[2]], indexing="ij")
    away = np.sqrt(z**2 + y**2 + x**2) > 0.5
    exact = np.sqrt(z**2 + y**2 + x**2) - 8
    np.testing.assert_allclose(distance[away], exact[away], atol=1e-4)
    assert (distance < 0).sum() * 0.125 == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.02)


def test_a_tube_of_one_radius_is_a_capsule() -> None:
    axes = _axes(16, 0.5)
    ends = np.array([[-6.0, 0, 0], [6.0, 0, 0]])
    _, distance = Tube(ends, np.array([5.1, 5.1]), ((0, 1),)).distance(axes)
    capsule = np.pi * 5.1**2 * 12 + 4 / 3 * np.pi * 5.1**3
    assert (distance < 0).sum() * 0.125 == pytest.approx(capsule, rel=0.02)


def test_a_smooth_field_has_mean_zero_variance_one_and_does_not_depend_on_the_slab() -> None:
    field = SmoothField.draw(np.random.default_rng(0), scale=4.0)
    axes = _axes(60, 1.5)
    whole = field.sample(axes)
    part = field.sample(Axes(axes.z[11:20], axes.y, axes.x))
    np.testing.assert_allclose(part, whole[11:20], atol=1e-5)
    assert abs(whole.mean()) < 0.1
    assert whole.std() == pytest.approx(1, abs=0.1)


def test_averaging_gives_partial_volume_and_the_label_goes_to_the_majority() -> None:
    hu = np.array([100.0, 0.0, -100.0], np.float32).reshape(3, 1, 1)
    assert average(hu, (3, 1, 1)).item() == 0
    label = np.array([2, 2, 1, 0, 1, 1, 0, 0, 2], np.uint8).reshape(9, 1, 1)
    assert majority(label, (3, 1, 1)).ravel().tolist() == [2, 1, 0]
    assert majority(np.zeros((6, 2, 2), np.uint8), (3, 2, 2)).tolist() == [[[0]], [[0]]]


def test_the_same_seed_gives_the_same_voxels_and_another_seed_does_not() -> None:
    first, again = (make_phantom("SYN-C", 1, "demo", SEED) for _ in range(2))
    assert first.image_hu.tobytes() == again.image_hu.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    other = make_phantom("SYN-C", 1, "demo", SEED + 1)
    assert other.image_hu.tobytes() != first.image_hu.tobytes()


def test_cases_and_centers_are_drawn_independently() -> None:
    sizes = {
        plan_case(name, i, "demo", SEED).scene.patient.size for name in CENTERS for i in (0, 1)
    }
    assert len(sizes) == 2 * len(CENTERS)


def test_images_are_int16_hu_on_a_plausible_scale(phantoms: dict) -> None:
    for phantom in phantoms.values():
        assert phantom.image_hu.dtype == np.int16
        assert phantom.label.dtype == np.uint8
        assert phantom.image_hu.shape == phantom.label.shape
        assert phantom.image_hu.min() >= -1024
        assert 400 < phantom.image_hu.max() <= 3071  # bone, where the kernel is soft
        air = phantom.image_hu[:, :3, :3]
        assert -1024 <= np.median(air) < -950
        parenchyma = np.median(phantom.image_hu[phantom.label == 1])
        assert 50 < parenchyma < 130


def test_labels_are_0_1_2_and_2_only_where_the_center_has_lesions(phantoms: dict) -> None:
    for (name, _), phantom in phantoms.items():
        expected = [0, 1, 2] if name in WITH_LESIONS else [0, 1]
        assert np.unique(phantom.label).tolist() == expected


def test_there_is_one_lesion_and_it_lies_in_the_gland(phantoms: dict) -> None:
    for (name, _), phantom in phantoms.items():
        if name not in WITH_LESIONS:
            continue
        tumor = phantom.label == 2
        pieces, _ = ndimage.label(tumor, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() >= 0.95 * sizes.sum()
        around = ndimage.binary_dilation(tumor, np.ones((3, 3, 3))) & ~tumor
        assert (phantom.label[around] == 1).mean() > 0.1


def test_pancreas_and_lesion_volumes_are_those_of_a_body(phantoms: dict) -> None:
    for phantom in phantoms.values():
        voxel_ml = np.prod(phantom.spacing) / 1000
        assert 30 < (phantom.label > 0).sum() * voxel_ml < 160
        if phantom.facts["lesion"] != "none":
            assert 1 < (phantom.label == 2).sum() * voxel_ml < 60


def test_the_pancreas_is_one_organ_within_the_volume(phantoms: dict) -> None:
    for phantom in phantoms.values():
        organ = phantom.label > 0
        pieces, _ = ndimage.label(organ, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert sizes.max() > 0.9 * sizes.sum()
        inner = organ[1:-1, 1:-1, 1:-1]
        assert inner.sum() == organ.sum()


def test_left_is_left_and_back_is_back(phantoms: dict) -> None:
    """LPS: the liver (x low) outweighs the left side in soft tissue; the spine lies at y high."""
    for phantom in phantoms.values():
        hu = ndimage.uniform_filter(phantom.image_hu.astype(np.float32), 5)
        bone_y = np.nonzero(hu > 250)[1].mean()
        assert bone_y > 0.5 * hu.shape[1]
        upper = hu[int(0.65 * len(hu)) : int(0.8 * len(hu))]
        soft = (upper > 30) & (upper < 150)
        half = hu.shape[2] // 2
        assert soft[..., :half].sum() > soft[..., half:].sum()


@pytest.mark.parametrize("name", WITH_LESIONS)
def test_no_single_hu_window_finds_the_lesions(name: str, phantoms: dict) -> None:
    scores = [best_window_dice(p.image_hu, p.label) for (n, _), p in phantoms.items() if n == name]
    assert np.mean(scores) < 30


def test_the_best_window_is_100_for_a_grey_value_of_its_own_and_known_otherwise() -> None:
    label = np.ones((2, 4, 5), np.uint8)
    label[0, 0] = 2
    image = np.where(label == 2, 50, 100).astype(np.int16)
    assert best_window_dice(image, label) == pytest.approx(100)
    image[:] = 50
    assert best_window_dice(image, label) == pytest.approx(100 * 2 * 5 / (5 + 40))
    with pytest.raises(ValueError, match="no lesion"):
        best_window_dice(image, np.ones_like(label))


@pytest.mark.parametrize(("kind", "sign"), [("PDA", -1), ("IPMN", -1), ("PNET", 1)])
def test_each_kind_of_lesion_has_its_contrast(
    kind: str, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mix = lesions.LesionMix(((kind, 1.0),), {"demo": (30, 30)})
    monkeypatch.setitem(CENTERS, "SYN-A", replace(CENTERS["SYN-A"], lesions=mix))
    phantom = make_phantom("SYN-A", 0, "demo", SEED)
    assert phantom.facts["lesion"] == kind
    core = ndimage.binary_erosion(phantom.label == 2)
    gland = np.median(phantom.image_hu[phantom.label == 1])
    difference = sign * (np.median(phantom.image_hu[core]) - gland)
    assert difference > 12


def test_distractors_hold_a_lesions_grey_values_outside_the_pancreas() -> None:
    plan = plan_case("SYN-A", 0, "demo", SEED)
    step = np.float32(3)
    axes = Axes(
        np.arange(-80, 90, step, dtype=np.float32),
        np.arange(-110, 110, step, dtype=np.float32),
        np.arange(-150, 150, step, dtype=np.float32),
    )
    slab = paint_slab(axes, plan.scene, plan.lesion, plan.fields)
    gland = ((slab.tissue == Tissue.PANCREAS) | (slab.tissue == Tissue.DUCT)).sum()
    fluid = np.isin(slab.tissue, (Tissue.FLUID, Tissue.CHYME, Tissue.CYST, Tissue.BILE)).sum()
    assert fluid > gland
    present = set(np.unique(slab.tissue).tolist())
    wanted = {t for t in Tissue if t not in {
        Tissue.AIR, Tissue.STENT, Tissue.TABLE, Tissue.CYST, Tissue.FLUID, Tissue.CHYME,
        Tissue.ORAL_CONTRAST, Tissue.HEART, Tissue.CARTILAGE,
    }}  # fmt: skip
    assert {int(t) for t in wanted} <= present


def test_stents_lie_only_where_a_head_lesion_is_of_a_center_that_has_them() -> None:
    plans = [(n, plan_case(n, i, "demo", SEED)) for n in WITH_LESIONS for i in range(30)]
    stented = [(n, p.lesion) for n, p in plans if p.lesion is not None and p.lesion.stent]
    assert stented
    assert {n for n, _ in stented} == {"SYN-A"}
    assert {found.region for _, found in stented} == {"head"}


def test_a_center_has_the_kinds_of_lesions_of_its_mix() -> None:
    kinds = {
        name: {plan_case(name, i, "demo", SEED).facts["lesion"] for i in range(30)}
        for name in CENTERS
    }
    pda = {"PDA"}
    assert kinds == {
        "SYN-A": {"PDA", "IPMN", "PNET"}, "SYN-B": pda, "SYN-C": pda, "SYN-N": {"none"},
        "SYN-D": {"IPMN"}, "SYN-E": pda, "SYN-F": pda,
    }  # fmt: skip


def test_centers_differ_in_phase_noise_and_thickness() -> None:
    def seen(name: str) -> tuple[float, float, float]:
        plans = [plan_case(name, i, "demo", SEED) for i in range(12)]
        aorta = np.mean([p.look.hu[Tissue.ARTERY] for p in plans])
        noise = np.mean([p.look.noise_hu for p in plans])
        return float(aorta), float(noise), float(np.mean([p.spacing[0] for p in plans]))

    a, b, c = (seen(name) for name in ("SYN-A", "SYN-B", "SYN-C"))
    assert b[0] > a[0] + 50  # pancreatic phase against portal venous
    assert c[1] > max(a[1], b[1]) + 2
    assert c[2] > a[2] > b[2]


def test_noise_has_the_scanners_level_and_its_own_texture() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((12, 128, 128), 50, np.float32)
    correlation = {}
    for name in ("SYN-B", "SYN-C", "SYN-F"):
        look = replace(draw_look(rng, CENTERS[name].scanner), noise_hu=20.0)
        noise = add_scanner(rng, flat.copy(), look, pixel_mm=0.8).astype(float)
        noise -= noise.mean()
        assert noise.std() == pytest.approx(20, rel=0.05)
        correlation[name] = (noise[..., 1:] * noise[..., :-1]).mean() / noise.var()
    assert correlation["SYN-C"] > correlation["SYN-B"] + 0.2  # a softer kernel, coarser grain
    assert 1 - correlation["SYN-F"] < (1 - correlation["SYN-C"]) / 3


def test_the_centers_apart_differ_in_one_thing_each_from_those_like_table_one() -> None:
    assert set(APART) == {"SYN-D", "SYN-E", "SYN-F", "SYN-N"}
    for name, like in (("SYN-D", "SYN-A"), ("SYN-E", "SYN-B"), ("SYN-F", "SYN-C")):
        assert name not in LIKE_TABLE_I
        different = {
            field
            for field, value in vars(CENTERS[name]).items()
            if value != getattr(CENTERS[like], field)
        }
        assert different == {"lesions" if name == "SYN-D" else "scanner"}


def test_an_edge_of_the_smoothed_center_is_wider_by_its_kernel() -> None:
    rng = np.random.default_rng(0)
    edge = np.zeros((1, 64, 64), np.float32)
    edge[..., 32:] = 1000
    pixel_mm = 1.0
    for name in ("SYN-B", "SYN-E"):
        scanner = replace(CENTERS[name].scanner, sharpen=0.0)
        look = replace(draw_look(rng, scanner), noise_hu=0.0)
        profile = add_scanner(rng, edge.copy(), look, pixel_mm)[0, 32].astype(float)
        spread = np.diff(profile) / 1000  # of a Gaussian on pixels: variance kernel^2
        place = np.arange(63) - 31.0
        assert (spread * place**2).sum() ** 0.5 == pytest.approx(scanner.kernel_mm, abs=0.15)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="SYN-A, SYN-B"):
        make_phantom("NOWHERE", 0, "demo", SEED)
    with pytest.raises(ValueError, match="demo, full"):
        make_phantom("SYN-A", 0, "huge", SEED)


@pytest.mark.slow
def test_the_full_size_has_512_pixels_and_table_ones_spacing() -> None:
    phantom = make_phantom("SYN-C", 1, "full", SEED)
    assert phantom.image_hu.shape[1:] == (512, 512)
    assert 0.54 <= phantom.spacing[1] <= 0.86
    assert 1.5 <= phantom.spacing[0] <= 5.0
    assert np.unique(phantom.label).tolist() == [0, 1, 2]
