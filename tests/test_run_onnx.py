"""The runner beside an ONNX file: numpy and onnxruntime do what the project's inference does."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data.prepare.prepared_case import PrepareSettings, prepare_case
from data.readers import load_image
from data.roi import Box, bounding_box
from engine import run_onnx
from engine.crops import input_box
from engine.export import export_onnx
from engine.inference import Predictor, load_predictor, predict_box, predict_prepared
from engine.run_onnx import OnnxStage
from methods import METHODS
from tests._evaluation_fixtures import (
    PANCREAS_CUT,
    PREPARED_SPACING,
    TUMOR_CUT,
    WindowMethod,
    hu_window,
    make_volumes,
    small_stage,
    write_run,
)
from tests._export_fixtures import random_hu, write_checkpoint
from utils.postprocess import keep_components
from utils.stages import STAGES

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHAPE = (21, 37, 26)  # no side is a multiple of 8
SPACING = (3.0, 2.4, 2.4)


@pytest.fixture(scope="module", params=["tumor_fine", "pancreas_coarse"])
def network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Predictor, OnnxStage]:
    """A stage of stride 1 or 2, in PyTorch and in onnxruntime; mirrored along two axes."""
    folder = tmp_path_factory.mktemp("stage")
    checkpoint = write_checkpoint(folder, request.param, mirror_axes=(0, 2))
    export_onnx(checkpoint, folder / "x.onnx")
    return load_predictor(checkpoint, "cpu", "fp32"), OnnxStage(folder / "x.onnx", threads=1)


def window_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str, **changes: object
) -> tuple[Predictor, OnnxStage]:
    """A stage that finds its target in the small volumes, in PyTorch and in onnxruntime."""
    monkeypatch.setitem(METHODS, "ours", WindowMethod)
    cut = {"pancreas": PANCREAS_CUT, "tumor": TUMOR_CUT}[STAGES[stage].target]
    run = write_run(folder / "runs", small_stage(stage, **changes), hu_window(cut))
    export_onnx(run.checkpoint, folder / f"{stage}.onnx")
    return load_predictor(run.checkpoint, "cpu", "fp32"), OnnxStage(folder / f"{stage}.onnx")


@pytest.mark.parametrize("start", [(0, 0, 0), (3, 5, 1)])
def test_a_crop_gets_the_predictors_probability(
    network: tuple[Predictor, OnnxStage], start: tuple[int, int, int]
) -> None:
    predictor, stage = network
    image = random_hu(SHAPE)
    box = Box(start, SHAPE)
    expected, _ = predict_box(predictor, image, box)
    found = stage.predict_crop(image[box.slices])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("stage_name", ["pancreas_coarse", "tumor_coarse", "tumor_fine"])
@pytest.mark.parametrize("seed", [2, 3])
def test_a_volume_gets_the_same_crop_rounds_and_probability(
    stage_name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, stage = window_stage(tmp_path, monkeypatch, stage_name, min_round_voxels=20)
    image, label = make_volumes(seed)
    calls: list[tuple[int, ...]] = []
    predict_crop = OnnxStage.predict_crop

    def counted(self: OnnxStage, crop: np.ndarray) -> np.ndarray:
        calls.append(crop.shape)
        return predict_crop(self, crop)

    monkeypatch.setattr(OnnxStage, "predict_crop", counted)
    for around in (label > 0, None):
        calls.clear()
        box = None if around is None else bounding_box(around)
        expected = predict_prepared(predictor, image, box, predictor.stage.threshold)
        prob, crop = stage.predict(image, around)
        assert crop == expected.box.slices
        assert len(calls) == expected.rounds
        np.testing.assert_allclose(prob, expected.crop_prob, atol=1e-6)
        assert (prob > 0.5).any()
    if stage_name == "tumor_fine":
        assert len(calls) > 1


@pytest.mark.parametrize("margin", [(0, 0, 0), (2, 9, 3), (30, 60, 60)])
def test_the_crop_around_a_mask_is_the_protocols(
    margin: tuple[int, int, int], network: tuple[Predictor, OnnxStage]
) -> None:
    predictor, stage = network
    rng = np.random.default_rng(5)
    changed = replace(predictor.stage, margin_voxels=margin)
    for _ in range(20):
        mask = np.zeros(SHAPE, bool)
        corner = rng.integers(0, SHAPE)
        mask[
            tuple(slice(c, c + int(n)) for c, n in zip(corner, rng.integers(1, 9, 3), strict=True))
        ] = True
        stage.settings["margin_voxels"] = list(margin)
        expected = input_box(changed, SHAPE, bounding_box(mask), SPACING).slices
        assert stage.crop_around(SHAPE, mask) == expected


def test_a_fixed_crop_kept_in_the_pancreas_is_the_protocols(
    network: tuple[Predictor, OnnxStage],
) -> None:
    predictor, stage = network
    rng = np.random.default_rng(6)
    values: dict[str, Any] = {
        "crop": "fixed",
        "crop_mm": (20.0, 30.0, 30.0),
        "crop_middle": "pancreas",
    }
    changed = replace(predictor.stage, margin_voxels=(1, 2, 2), **values)
    stage.settings |= {"margin_voxels": (1, 2, 2), **values}
    for _ in range(20):
        masks = np.zeros((2, *SHAPE), bool)
        for mask in masks:
            start, sides = rng.integers(0, SHAPE), rng.integers(1, 9, 3)
            mask[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = True
        around, pancreas = (bounding_box(mask) for mask in masks)
        expected = input_box(changed, SHAPE, around, SPACING, pancreas).slices
        assert stage.crop_around(SHAPE, *masks) == expected
    with pytest.raises(ValueError, match="give --pancreas"):
        stage.predict(np.zeros(SHAPE, np.int16), masks[0])


def test_rounds_that_settle_end_in_the_same_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, object] = {"min_round_voxels": 20, "agreement_dice": 1.0}
    predictor, stage = window_stage(tmp_path, monkeypatch, "tumor_fine", **values)
    image, label = make_volumes(2)
    around = np.roll(label == 2, 1, axis=1)  # 2.4 mm, less than a slice of 3 mm
    box = bounding_box(around)
    for slices, rounds in ((0.0, 2), (1.0, 1)):
        settled = replace(predictor.stage, settled_slices=slices)
        one = replace(predictor, config=replace(predictor.config, stage=settled))
        stage.settings["settled_slices"] = slices
        expected = predict_prepared(one, image, box, predictor.stage.threshold)
        prob, crop = stage.predict(image, around)
        assert (crop, expected.rounds) == (expected.box.slices, rounds)
        np.testing.assert_allclose(prob, expected.crop_prob, atol=1e-6)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.06, 0.1, 0.3, 1.0])
def test_components_are_those_of_the_cascade(density: float) -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 1), (4, 9, 5), (13, 11, 17)):
        for _ in range(5):
            mask = rng.random(shape) < density
            np.testing.assert_array_equal(run_onnx.keep_components(mask), keep_components(mask))
    mask = np.zeros((3, 8, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # one component by its corners
    mask[0, 6, :2] = True  # larger than half of it
    mask[2, 7, 2] = True  # not
    expected = mask.copy()
    expected[2, 7, 2] = False
    np.testing.assert_array_equal(run_onnx.keep_components(mask), expected)


def test_wrong_arrays_are_refused(network: tuple[Predictor, OnnxStage]) -> None:
    _, stage = network
    with pytest.raises(ValueError, match=r"give a volume \(z, y, x\), not .* \(3, 4\)"):
        stage.predict_crop(np.zeros((3, 4), np.int16))
    image = random_hu((9, 9, 9))
    with pytest.raises(ValueError, match=r"has 0 voxels in \(9, 9, 9\).*on the image's grid"):
        stage.predict(image, np.zeros((9, 9, 9), bool))
    with pytest.raises(ValueError, match=r"in \(8, 9, 9\), the image is \(9, 9, 9\)"):
        stage.predict(image, np.ones((8, 9, 9), bool))


def test_files_that_are_no_stage_are_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    with pytest.raises(ValueError, match=r"x\.onnx: no file there"):
        OnnxStage(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"x\.onnx: not a readable ONNX file"):
        OnnxStage(tmp_path / "x.onnx")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["b"])], "other", value[:1], value[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"x\.onnx: no stage of this project"):
        OnnxStage(tmp_path / "x.onnx")


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_a_nifti_file_of_any_orientation_gets_its_mask_on_its_own_grid(
    orientation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predictor, _ = window_stage(tmp_path, monkeypatch, "tumor_coarse")
    image, label = make_volumes(seed=4)
    for name, array in (("ct", image), ("pancreas", (label > 0).astype(np.uint8))):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(PREPARED_SPACING[::-1])
        volume.SetOrigin((5.0, -7.0, 11.0))
        sitk.WriteImage(sitk.DICOMOrient(volume, orientation), str(tmp_path / f"{name}.nii.gz"))
    words = [f"{tmp_path / name}" for name in ("tumor_coarse.onnx", "ct.nii.gz")]
    words += ["--around", str(tmp_path / "pancreas.nii.gz"), "--out", str(tmp_path / "p.nii.gz")]
    assert run_onnx.main([*words, "--mask", str(tmp_path / "mask.nii.gz")]) == 0
    assert "Research use only; no medical device." in capsys.readouterr().out
    case = load_image(tmp_path / "ct.nii.gz", "x")
    prepared = prepare_case(case, PrepareSettings(spacing=PREPARED_SPACING))
    expected = predict_prepared(predictor, prepared.image_hu, bounding_box(label > 0), 0.5).prob
    found, mask = (nib.nifti1.load(tmp_path / f"{name}.nii.gz") for name in ("p", "mask"))
    for written in (found, mask):
        np.testing.assert_allclose(written.affine, nib.nifti1.load(tmp_path / "ct.nii.gz").affine)
        assert b"research use only" in written.header["descrip"].tobytes()
    for written, wanted in ((found, expected), (mask, keep_components(expected > 0.5))):
        back = sitk.DICOMOrient(
            sitk.ReadImage(str(tmp_path / ("p.nii.gz" if written is found else "mask.nii.gz"))),
            "LPS",
        )
        np.testing.assert_allclose(sitk.GetArrayFromImage(back), wanted, atol=1e-6)
    assert mask.get_fdata().any()


def test_the_command_refuses_by_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    window_stage(tmp_path, monkeypatch, "tumor_coarse")
    stage, image = str(tmp_path / "tumor_coarse.onnx"), tmp_path / "ct.npy"
    np.save(image, random_hu((9, 9, 9)))
    nib.save(nib.Nifti1Image(random_hu((9, 9, 9)), np.eye(4)), tmp_path / "ct.nii.gz")
    np.save(tmp_path / "flat.npy", random_hu((9, 9)))
    out = ["--out", str(tmp_path / "p.npy")]
    for words, message in (
        ([str(tmp_path / "none.npy"), *out], "none.npy: no file there"),
        ([str(image)], "give an image and --out FILE, or --info"),
        ([str(image), "--out", "p.txt"], "p.txt: unknown format"),
        ([str(image), "--out", "p.nii.gz"], "p.nii.gz: an image from a .npy has no grid"),
        ([str(tmp_path / "flat.npy"), *out], "flat.npy: is of shape (9, 9), not one volume"),
        ([str(tmp_path / "ct.nii.gz"), *out], "voxels of 1 x 1 x 1 mm (z, y, x), the stage was"),
    ):
        assert run_onnx.main([stage, *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
    assert run_onnx.main([stage, "--info"]) == 0
    assert "notice: Research use only; no medical device." in capsys.readouterr().out


def test_nothing_but_numpy_and_onnxruntime_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, _ = window_stage(tmp_path, monkeypatch, "tumor_coarse")
    image, label = make_volumes(seed=4)
    np.save(tmp_path / "ct.npy", image)
    np.save(tmp_path / "mask.npy", label > 0)
    program = (
        "import sys, run_onnx\n"
        "assert run_onnx.main(['tumor_coarse.onnx', 'ct.npy', '--around', 'mask.npy', "
        "'--out', 'p.npy']) == 0\n"
        "heavy = {'torch', 'scipy', 'nibabel', 'monai', 'engine', 'data', 'onnx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, env={"PATH": "", "HOME": "/"}
    )
    expected = predict_prepared(predictor, image, bounding_box(label > 0), 0.5).prob
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, atol=1e-6)
