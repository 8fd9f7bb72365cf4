"""A trained stage as one ONNX file, for onnxruntime and whatever else reads ONNX.

The file holds the function from an image in [0, 1] to the probability of the target: `predict` of
the stage's method, whatever that method is, with standardized weights folded. Its metadata hold
what has to be done around it, and `engine/run_onnx.py`, which is copied beside it, does it with
numpy and onnxruntime alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.intensity import HU_WINDOW, PAD_HU
from data.roi import STRIDE
from engine.inference import Predictor, load_predictor
from methods import Method
from models.folding import fold_weights
from utils.about import LICENSE, NAME, NOTICE, VERSION
from utils.files import sha256_of, write_atomic, write_text
from utils.stages import NONE

OPSET = 18
RUNNER = "run_onnx.py"
MAX_DIFFERENCE = 1e-4  # of the probability, between onnxruntime and PyTorch
LARGEST_SIDE = 1024 * STRIDE  # a bound that the exporter asks for
EXAMPLE = (3 * STRIDE, 4 * STRIDE, 5 * STRIDE)  # three different sides: none is taken for another
CHECKED = ((2 * STRIDE, 5 * STRIDE, 3 * STRIDE), (STRIDE, 2 * STRIDE, 2 * STRIDE))
MISSING = "{name}: not installed; pip install -r requirements-export.txt"


class StageNetwork(nn.Module):
    """What a method predicts, as a module: image (1, 1, z, y, x) in [0, 1] -> probability.

    The method's weights are folded, so it is for float32 prediction alone.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        folded = fold_weights(method)
        assert isinstance(folded, Method)
        self.method = folded
        self.eval()  # the exporters return a module to the mode that they found it in

    def forward(self, image: Tensor) -> Tensor:
        return self.method.predict(image)


def export_onnx(checkpoint: Path, path: Path, *, stage: str | None = None) -> dict[str, Any]:
    """Write the stage in a checkpoint as `path`, and its runner beside it; returns the metadata.

    Before a byte is written, onnxruntime's output is compared with PyTorch's. Raises
    FileNotFoundError or ValueError naming the file: no checkpoint, of another stage than `stage`,
    a name that does not end in .onnx, a method that cannot be exported so that both agree to 1e-4;
    ValueError too where an optional package is missing.
    """
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: give a name that ends in .onnx")
    need_packages("onnx", "onnxscript", "onnxruntime")
    predictor = load_predictor(checkpoint, "cpu", "fp32", stage=stage)
    if predictor.stage.second_channel != NONE:
        raise ValueError(
            f"{checkpoint}: reads the coarse stage's result as a second channel, which the ONNX "
            "runner does not make; export the cascade as a MONAI bundle"
        )
    metadata = describe_stage(predictor, sha256_of(checkpoint))
    content = _checked_onnx(checkpoint, StageNetwork(predictor.method), metadata)
    write_atomic(path, lambda handle: handle.write(content))
    runner = Path(__file__).with_name(RUNNER).read_text(encoding="utf-8")
    write_text(path.with_name(RUNNER), runner)
    return metadata


def describe_stage(predictor: Predictor, checkpoint_sha256: str) -> dict[str, Any]:
    """What has to be known to use a stage, as JSON's own types: protocol, origin, notice.

    Lengths are mm or voxels as their names say, (z, y, x). No path and no case is named.
    """
    config, stage = predictor.config, predictor.stage
    return {
        "name": NAME,
        "version": VERSION,
        "notice": NOTICE,
        "license": LICENSE,
        "checkpoint_sha256": checkpoint_sha256,
        "stage": stage.name,
        "target": stage.target,
        "method": config.method,
        "sources": list(predictor.method.sources),
        "orientation": "LPS",  # indices rise to the patient's left, back and head
        "spacing_mm": list(config.spacing),
        "hu_window": list(HU_WINDOW),
        "pad_hu": PAD_HU,
        "multiple_of": STRIDE,
        "stride": stage.stride,
        "roi": stage.roi,
        "previous": stage.previous,
        "margin_voxels": list(stage.margin_voxels),
        "window_voxels": list(stage.window_voxels),
        "mirror_axes": list(stage.mirror_axes),
        "threshold": stage.threshold,
        "rounds": stage.rounds,
        "agreement_dice": stage.agreement_dice,
        "crop": stage.crop,
        "crop_mm": list(stage.crop_mm),
        "settled_slices": stage.settled_slices,
        "crop_middle": stage.crop_middle,
        "min_round_voxels": stage.min_round_voxels,
    }


def _checked_onnx(checkpoint: Path, network: StageNetwork, metadata: dict[str, Any]) -> bytes:
    """The bytes of the file, by the first exporter whose model computes what PyTorch does.

    PyTorch has two. The one that traces takes a second and knows nothing of control flow or of
    sizes that Python code computes; the one that captures the program takes half a minute of a CPU
    and does. That sides stay free is seen by running the result on other ones than the example's.
    """
    problems = []
    for export in (_trace, _capture):
        try:
            with torch.no_grad(), _quiet():
                model = export(network)
            content = _finish(model, metadata)
            difference = _largest_difference(network, content)
        except Exception as error:  # each exporter, and onnxruntime, raises errors of its own kinds
            problems.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            continue
        if difference <= MAX_DIFFERENCE:
            return content
        problems.append(f"the probability differs by {difference:.2g} in onnxruntime")
    raise ValueError(
        f"{checkpoint}: method {metadata['method']} cannot be exported to ONNX "
        f"({'; '.join(problems)}); nothing was written. Its `predict` may use only operations that "
        "torch.onnx.export knows"
    )


def _trace(network: StageNetwork) -> Any:
    """The model as the exporter that follows one example sees it."""
    import onnx

    buffer = io.BytesIO()
    sides = {2: "z", 3: "y", 4: "x"}
    torch.onnx.export(
        network,
        (torch.rand(1, 1, *EXAMPLE),),
        buffer,  # type: ignore[arg-type]  # a stream is taken where one traces
        input_names=["image"],
        output_names=["probability"],
        dynamic_axes={"image": sides, "probability": sides},
        opset_version=OPSET,
        dynamo=False,
    )
    return onnx.load_from_string(buffer.getvalue())


def _capture(network: StageNetwork) -> Any:
    """The model as the exporter that reads the program sees it."""
    sides = [STRIDE * torch.export.Dim(name, min=1, max=LARGEST_SIDE // STRIDE) for name in "zyx"]
    program = torch.onnx.export(
        network,
        (torch.rand(1, 1, *EXAMPLE),),
        input_names=["image"],
        output_names=["probability"],
        dynamic_shapes={"image": dict(zip((2, 3, 4), sides, strict=True))},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _finish(model: Any, metadata: dict[str, Any]) -> bytes:
    """The model with its metadata, and without the exporting machine's paths."""
    _forget_origin(model)
    model.producer_name, model.producer_version = NAME, VERSION
    model.doc_string = f"{NAME} {VERSION}, {metadata['stage']}. {NOTICE}"
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    content: bytes = model.SerializeToString()
    return content


def _forget_origin(model: Any) -> None:
    """Delete what the exporter notes of every operation: source lines, with their paths."""
    owners = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions]
    owners += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    owners += [node for function in model.functions for node in function.node]
    for owner in owners:
        owner.doc_string = ""
        del owner.metadata_props[:]


def _largest_difference(network: StageNetwork, content: bytes) -> float:
    """Between the two probabilities, over images of a few sizes; NaN where one holds NaN."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for shape in CHECKED:
        image = torch.rand(1, 1, *shape, generator=generator)
        with torch.inference_mode():
            ours = network(image).numpy()
        theirs = session.run(["probability"], {"image": image.numpy()})[0]
        worst = float(np.maximum(worst, np.abs(ours - theirs).max()))
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own progress and on deprecated parts of itself."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


def need_packages(*names: str) -> None:
    """Raises ValueError, saying how to install it, for a package that is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(MISSING.format(name=name))
