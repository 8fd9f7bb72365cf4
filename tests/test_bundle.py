"""The MONAI bundle: it runs by the command that it documents, and finds what the cascade finds."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import export_model
from data.readers import load_image, read_mask
from engine.bundle import (
    NETWORK,
    OUR_PACKAGES,
    PACKAGE,
    export_bundle,
    move_imports,
    needed_modules,
)
from engine.bundle_network import Cascade, find_scans
from engine.cascade import segment
from engine.inference import load_predictor
from methods import Method
from tests._evaluation_fixtures import ORIENTATIONS, SPACING, make_volumes
from tests._export_fixtures import PATIENT, SECRET_FOLDER, write_checkpoint, write_stages
from tests._sources import imports, package_of
from tests.conftest import ROOT
from utils.about import NOTICE, VERSION
from utils.files import sha256_of
from utils.stages import STAGE_NAMES

for package in ("fire", "ignite"):
    pytest.importorskip(package)

PANCREAS = STAGE_NAMES[:2]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_stages(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bundle(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "a bundle"  # with a space, as folders have
    export_bundle(checkpoints, folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans, each in another orientation, not on the networks' grid."""
    folder = tmp_path_factory.mktemp("scans")
    for number, orientation in enumerate(ORIENTATIONS[1:3]):
        image = sitk.GetImageFromArray(make_volumes(seed=number)[0])
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((-31.5, 12.25, 404.75))
        path = folder / f"scan_{number}.nii.gz"
        sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))
    return folder


def run_monai(bundle: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of monai.bundle in the bundle's folder, where nothing of this project is found."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "monai.bundle", *words]
    return subprocess.run(
        command, cwd=bundle, env=environment, capture_output=True, text=True, check=False
    )


def files_of(bundle: Path) -> Iterator[Path]:
    return (
        path for path in bundle.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )


@pytest.mark.slow
def test_the_documented_command_writes_the_cascades_masks(
    bundle: Path, checkpoints: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    words = ["run", "--config_file", "configs/inference.json", "--dataset_dir", str(scans)]
    for word in (" ".join(words[:3]), "--dataset_dir", "--output_dir"):
        assert word in (bundle / "docs" / "README.md").read_text()
    done = run_monai(bundle, *words, "--output_dir", str(tmp_path), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    predictors = {stage: load_predictor(path, "cpu") for stage, path in checkpoints.items()}
    for path in sorted(scans.iterdir()):
        name = path.name.partition(".")[0]
        case = load_image(path, name)
        for stage, found in segment(case, predictors).items():
            written = tmp_path / name / f"{name}_{stage}.nii.gz"
            np.testing.assert_array_equal(read_mask(written, case.grid), found.mask)
            assert found.mask.any()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "notice": NOTICE,
        "version": VERSION,
        "checkpoint_sha256": {stage: sha256_of(path) for stage, path in checkpoints.items()},
        "scans": ["scan_0.nii.gz", "scan_1.nii.gz"],
    }


@pytest.mark.slow
def test_monai_finds_every_property_and_loads_the_network_with_its_weights(
    bundle: Path, scans: Path
) -> None:
    program = f"""
import sys, torch, monai.bundle
sys.path.insert(0, {str(bundle)!r})
config = {str(bundle / "configs" / "inference.json")!r}
workflow = monai.bundle.create_workflow(
    config_file=config, workflow_type="infer", bundle_root={str(bundle)!r},
    dataset_dir={str(scans)!r},
)
assert not workflow.check_properties(), workflow.check_properties()
network = monai.bundle.load(
    {bundle.name!r}, bundle_dir={str(bundle.parent)!r}, workflow_type="inference", device="cpu",
    net_override={{"stages": {str(bundle / "configs" / "stages.json")!r}}},
)
saved = torch.load({str(bundle / "models" / "model.pt")!r}, weights_only=True)
assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
assert len(saved) == len(network.state_dict())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_monai_verifies_the_networks_input_and_output(bundle: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": "."}
    words = ["verify_net_in_out", "--net_id", "network_def", "--any", "40", "--device", "cpu"]
    words += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        cwd=bundle, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "verified with no error" in done.stderr + done.stdout


def test_the_network_takes_a_metatensor_and_returns_masks_on_its_grid(
    bundle: Path, checkpoints: dict[str, Path], scans: Path, tmp_path: Path
) -> None:
    from monai.data import MetaTensor
    from monai.transforms import LoadImage

    config = json.loads((bundle / "configs" / "stages.json").read_text())
    (tmp_path / "two.json").write_text(json.dumps({stage: config[stage] for stage in PANCREAS}))
    network = Cascade(tmp_path / "two.json", precision="fp32")
    assert network.stages == PANCREAS
    saved = torch.load(bundle / "models" / "model.pt", weights_only=True)
    network.load_state_dict({k: v for k, v in saved.items() if "pancreas" in k})
    predictors = {stage: load_predictor(checkpoints[stage], "cpu") for stage in PANCREAS}
    image = LoadImage(ensure_channel_first=True)(scans / "scan_0.nii.gz")
    masks = network(image[None])
    assert isinstance(masks, MetaTensor)
    assert (masks.shape, masks.dtype) == ((1, 2, *image.shape[1:]), torch.uint8)
    torch.testing.assert_close(masks.affine.reshape(4, 4), image.affine)
    case = load_image(scans / "scan_0.nii.gz", "x")
    read = sitk.ReadImage(str(scans / "scan_0.nii.gz"))
    for number, found in enumerate(segment(case, predictors).values()):
        back = sitk.GetImageFromArray(masks[0, number].numpy().T)
        back.CopyInformation(read)
        canonical = sitk.GetArrayFromImage(sitk.DICOMOrient(back, "LPS"))
        np.testing.assert_array_equal(canonical, found.mask)


def test_wrong_images_are_refused(bundle: Path) -> None:
    from monai.data import MetaTensor

    network = Cascade(bundle / "configs" / "stages.json")
    with pytest.raises(ValueError, match=r"shape \(1, 2, 8, 8, 8\); give \(batch, 1, x, y, z\)"):
        network(torch.zeros(1, 2, 8, 8, 8))
    flat = MetaTensor(torch.zeros(1, 1, 16, 16, 16), meta={"filename_or_obj": "a/b.nii.gz"})
    with pytest.raises(ValueError, match=r"a/b\.nii\.gz: every voxel has the same value"):
        network(flat)
    sheared = torch.eye(4)
    sheared[0, 1] = 0.5
    with pytest.raises(ValueError, match="axes are not at right angles"):
        network(MetaTensor(torch.rand(1, 1, 16, 16, 16), affine=sheared))


def test_scans_are_found_in_a_folder_or_named(scans: Path, tmp_path: Path) -> None:
    names = [scans / "scan_0.nii.gz", scans / "scan_1.nii.gz"]
    assert find_scans(scans) == [{"image": str(name)} for name in names]
    assert find_scans(str(names[1])) == [{"image": str(names[1])}]
    with pytest.raises(FileNotFoundError, match=r"no \.nii or \.nii\.gz file there; .*dataset_dir"):
        find_scans(tmp_path)


def test_every_import_of_ours_is_from_inside(bundle: Path) -> None:
    shipped = list((bundle / PACKAGE).rglob("*.py"))
    assert len(shipped) > 30
    for path in shipped:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE):
                inside = bundle / Path(*str(node.module).split("."))
                assert inside.with_suffix(".py").is_file() or (inside / "__init__.py").is_file()
        assert not {package_of(name) for name in imports(path)} & set(OUR_PACKAGES), path
    needed = needed_modules(NETWORK)
    assert {"engine.cascade", "models.backbone", "methods.dart", "utils"} <= set(needed)
    assert not {name for name in needed if name.startswith(("reproduce", "engine.training"))}


def test_no_path_no_patient_and_no_optimizer_is_in_it(bundle: Path) -> None:
    for path in files_of(bundle):
        content = path.read_bytes()
        for text in (PATIENT, SECRET_FOLDER, str(ROOT)):
            assert text.encode() not in content, path
    saved = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert {name.split(".")[1] for name in saved} == set(STAGE_NAMES)
    assert not [name for name in saved if "auxiliary" in name]
    tops = {path.relative_to(bundle).parts[0] for path in files_of(bundle)}
    assert tops == {"configs", "docs", "models", PACKAGE, "LICENSE"}
    assert not list(bundle.parent.glob(".*"))


def test_the_metadata_say_what_it_is(bundle: Path, checkpoints: dict[str, Path]) -> None:
    meta: dict[str, Any] = json.loads((bundle / "configs" / "metadata.json").read_text())
    required: tuple[str, ...] = (
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
    )
    required += ("required_packages_version", "description", "authors", "copyright", "changelog")
    for key in (*required, "schema", "network_data_format"):
        assert meta[key], key
    assert meta["intended_use"] == NOTICE
    assert NOTICE in (bundle / "docs" / "README.md").read_text()
    for number, (stage, path) in enumerate(checkpoints.items()):
        entry = meta["stages"][stage]
        assert (entry["checkpoint_sha256"], entry["notice"]) == (sha256_of(path), NOTICE)
        pred = meta["network_data_format"]["outputs"]["pred"]
        assert pred["channel_def"][str(number)] == stage
        assert sha256_of(path) in (bundle / "docs" / "README.md").read_text()
    assert (bundle / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert {"monai", "torch", "numpy"}.isdisjoint(meta["required_packages_version"])
    assert {"scipy", "nibabel", "fire"} <= meta["required_packages_version"].keys()


def test_imports_of_ours_move_and_nothing_else_does() -> None:
    source = (
        '"""Taken\nfrom data import x\n"""\nimport json\nfrom data.case import (\n    Case,\n)\n'
    )
    source += "from dataclasses import field\n\ndef f():\n    from utils import files\n"
    moved = move_imports(source, "inner")
    expected = source.replace("from data.case", "from inner.data.case")
    assert moved == expected.replace("from utils", "from inner.utils")
    with pytest.raises(ValueError, match=r"import data\.case: write from"):
        move_imports("import data.case\n", "inner")


def test_wrong_requests_are_refused_and_leave_nothing(
    checkpoints: dict[str, Path], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileExistsError, match="a bundle: is there already; delete it"):
        export_bundle(checkpoints, bundle)
    with pytest.raises(ValueError, match="pancreas_fine crops around what pancreas_coarse finds"):
        export_bundle({"pancreas_fine": checkpoints["pancreas_fine"]}, tmp_path / "out")
    with pytest.raises(ValueError, match="trained as tumor_fine, not as tumor_coarse"):
        export_bundle({"tumor_coarse": checkpoints["tumor_fine"]}, tmp_path / "out")
    with pytest.raises(SystemExit) as exit_:
        export_model.main(
            ["bundle", str(checkpoints["tumor_fine"]), "--out", str(tmp_path / "out")]
        )
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: tumor_fine crops around")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_method_of_its_own_kind_is_shipped_too(scans: Path, tmp_path: Path) -> None:
    """An ensemble whose auxiliary part and whose memory differ from the baseline's."""
    settings = {"mode": "ensemble"}
    checkpoint = write_checkpoint(tmp_path / "run", "pancreas_coarse", "dart", settings)
    export_bundle({"pancreas_coarse": checkpoint}, tmp_path / "bundle")
    network = Cascade(tmp_path / "bundle" / "configs" / "stages.json")
    network.load_state_dict(torch.load(tmp_path / "bundle/models/model.pt", weights_only=True))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        expected = load_predictor(checkpoint, "cpu").predict(image)
        method = network.methods["pancreas_coarse"]
        assert isinstance(method, Method)
        torch.testing.assert_close(method.predict(image), expected)
