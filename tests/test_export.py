"""A stage as ONNX: onnxruntime computes what PyTorch does, and the file says what it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import export_model
from engine.export import describe_stage, export_onnx
from engine.inference import load_predictor
from methods import METHODS
from methods.base import Method
from models.backbone import ResidualEncoderDecoder
from models.folding import FoldedConv3d, fold_weights
from models.layers import WSConv3d
from tests._evaluation_fixtures import WindowMethod, hu_window, small_stage, write_run
from tests._export_fixtures import PATIENT, SECRET_FOLDER, write_checkpoint
from tests.conftest import ROOT
from utils.about import NOTICE, VERSION
from utils.files import sha256_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = ((8, 8, 8), (16, 24, 40), (40, 8, 16))
# Every method whose network or prediction is not the baseline's, and both ends of the heads.
DIFFERENT: dict[str, tuple[str, dict[str, Any]]] = {
    "no further head": ("bl", {}),
    "distance and slice heads": ("ours", {}),
    "snr": ("snr", {}),
    "dcac": ("dcac", {}),
    "lanet_style": ("lanet_style", {}),
    "dofe": ("dofe", {}),
    "dart, the mean of the weights": ("dart", {}),
    "dart, the mean of the probabilities": ("dart", {"mode": "ensemble"}),
}
FAST = ("distance and slice heads", "dcac", "dofe")


def run(path: Path, image: Tensor) -> np.ndarray:
    """The probability in onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (probability,) = session.run(None, {"image": image.numpy()})
    return np.asarray(probability)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case not in FAST)) for case in DIFFERENT],
)
def test_onnxruntime_computes_what_pytorch_does_at_every_size(case: str, tmp_path: Path) -> None:
    method, settings = DIFFERENT[case]
    checkpoint = write_checkpoint(tmp_path, method=method, settings=settings)
    export_onnx(checkpoint, tmp_path / "stage.onnx")
    predictor = load_predictor(checkpoint, "cpu", "fp32")
    generator = torch.Generator().manual_seed(1)
    spread = []
    for size in SIZES:
        image = torch.rand(1, 1, *size, generator=generator)
        with torch.inference_mode():
            expected = predictor.predict(image).numpy()
        np.testing.assert_allclose(run(tmp_path / "stage.onnx", image), expected, atol=1e-5)
        spread.append(np.ptp(expected))
    assert max(spread) > 0.01  # an output that is one number everywhere would agree by chance


def test_every_method_that_predicts_in_its_own_way_is_among_them() -> None:
    tested = {method for method, _ in DIFFERENT.values()}
    own = {
        name
        for name, method in METHODS.items()
        if method.build_network is not Method.build_network or method.predict is not Method.predict
    }
    ours = {name for name, method in METHODS.items() if issubclass(method, METHODS["ours"])}
    assert own - ours <= tested
    assert own & ours <= {"ours", *ours}


def test_weights_are_standardized_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResidualEncoderDecoder(width=8, distance=False, slices=False, projection=False)
    folded = fold_weights(network)
    convolutions = sum(isinstance(module, WSConv3d) for module in network.modules())
    assert sum(isinstance(module, FoldedConv3d) for module in folded.modules()) == convolutions > 20
    assert not any(isinstance(module, WSConv3d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert network.training
    image = torch.rand(1, 1, 8, 16, 8)
    with torch.inference_mode():
        expected = network.eval()(image).logits
        torch.testing.assert_close(folded(image).logits, expected, rtol=0, atol=1e-4)


def test_the_file_says_what_has_to_be_done_around_the_network(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, "pancreas_coarse", "bl")
    returned = export_onnx(checkpoint, tmp_path / "x.onnx", stage="pancreas_coarse")
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found.keys() == returned.keys()
    assert found["checkpoint_sha256"] == sha256_of(checkpoint)
    assert (found["notice"], found["version"]) == (NOTICE, VERSION)
    assert NOTICE in model.doc_string
    numbers = {
        "spacing_mm": [3.0, 2.4, 2.4],
        "hu_window": [-100.0, 240.0],
        "pad_hu": -1024,
        "stride": 2,
        "multiple_of": 8,
        "threshold": 0.5,
        "margin_voxels": [1, 2, 2],
        "window_voxels": [40, 40],
        "mirror_axes": [0, 1, 2],
        "rounds": 1,
        "sources": ["A", "B"],
        "previous": None,
    }
    assert {key: json.loads(found[key]) for key in numbers} == numbers
    assert describe_stage(load_predictor(checkpoint), returned["checkpoint_sha256"]) == returned
    (image,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in image.type.tensor_type.shape.dim]
    assert sides == [1, 1, "z", "y", "x"]
    assert [path.name for path in tmp_path.glob("*.onnx*")] == ["x.onnx"]  # no second data file
    assert (tmp_path / "run_onnx.py").read_text() == (ROOT / "engine/run_onnx.py").read_text()
    content = (tmp_path / "x.onnx").read_bytes()
    for text in (PATIENT, SECRET_FOLDER, str(ROOT), "site-packages", ".py"):
        assert text.encode() not in content  # no path and no patient leaves with it


class Frozen(WindowMethod):
    """Its prediction asks for sizes in Python: traced, they would be the example's for ever."""

    def predict(self, image: Tensor) -> Tensor:
        return super().predict(image.flatten(2).unflatten(2, image.shape[2:]))


class Foreign(WindowMethod):
    """Its prediction leaves PyTorch."""

    def predict(self, image: Tensor) -> Tensor:
        return super().predict(torch.from_numpy(np.sort(image.numpy(), axis=2)))


@pytest.fixture
def window_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs", small_stage("tumor_fine"), hu_window(30.0)).checkpoint


@pytest.mark.slow
def test_sizes_that_tracing_would_freeze_stay_free(
    window_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ours", Frozen)
    export_onnx(window_run, tmp_path / "x.onnx")
    image = torch.rand(1, 1, 16, 8, 48)
    expected = load_predictor(window_run, "cpu", "fp32").predict(image)
    np.testing.assert_allclose(run(tmp_path / "x.onnx", image), expected, atol=1e-6)
    assert 0 < (expected > 0.5).float().mean() < 1


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    window_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "ours", Foreign)
    with pytest.raises(ValueError, match=r"last\.pt: method ours cannot be exported to ONNX"):
        export_onnx(window_run, tmp_path / "out" / "x.onnx")
    assert not (tmp_path / "out").exists()


def test_wrong_requests_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"stage\.pt: give a name that ends in \.onnx"):
        export_onnx(checkpoint, tmp_path / "stage.pt")
    with pytest.raises(ValueError, match="trained as tumor_fine, not as tumor_coarse"):
        export_onnx(checkpoint, tmp_path / "x.onnx", stage="tumor_coarse")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt"):
        export_onnx(tmp_path / "nothing.pt", tmp_path / "x.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"onnx: not installed; pip install -r req"):
        export_onnx(checkpoint, tmp_path / "x.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_the_version_is_the_packages() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_command_writes_a_file_for_each_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "ours", WindowMethod)
    runs = [
        write_run(tmp_path / "runs", small_stage(stage), hu_window(30.0)).folder
        for stage in ("pancreas_coarse", "tumor_fine")
    ]
    out = tmp_path / "out"
    words = ["--out", str(out), "onnx", *map(str, runs)]
    export_model.main(words)
    names = ["pancreas_coarse.onnx", "run_onnx.py", "tumor_fine.onnx"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert capsys.readouterr().out.count(NOTICE) == 2
    with pytest.raises(SystemExit) as exit_:
        export_model.main([*words, str(runs[0] / "last.pt")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "pancreas_coarse is" in error
    with pytest.raises(SystemExit) as exit_:
        export_model.main([*words, str(tmp_path / "nothing")])
    assert exit_.value.code == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err


def test_a_method_needs_no_auxiliary_weights_to_predict(tmp_path: Path) -> None:
    """What only trains may be missing from a file, or be of another shape."""
    checkpoint = write_checkpoint(tmp_path, method="dart")
    content = torch.load(checkpoint, weights_only=True)
    before = load_predictor(checkpoint, "cpu").predict(torch.ones(1, 1, 8, 8, 8))
    kept = {k: v for k, v in content["method"].items() if not k.startswith("auxiliary.")}
    assert len(kept) < len(content["method"])
    torch.save({**content, "method": kept}, checkpoint)
    after = load_predictor(checkpoint, "cpu")
    assert after.method.auxiliary is None
    torch.testing.assert_close(after.predict(torch.ones(1, 1, 8, 8, 8)), before)
    assert isinstance(after.method, nn.Module)
