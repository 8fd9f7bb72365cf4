"""The cascade as a MONAI bundle: a folder that `python -m monai.bundle run` predicts with.

It holds the weights of all stages in one state dict, the code that they need as one package of its
own name (so that it meets no other `data` or `utils`), configs, metadata, a manual and the license.
No path, no case and no optimizer of the training is in it.
"""

from __future__ import annotations

import ast
import shutil
import uuid
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from engine.cascade import order_stages
from engine.export import describe_stage, need_packages
from engine.inference import Predictor, load_predictor
from utils.about import LICENSE, NAME, NOTICE, VERSION
from utils.commands import ROOT
from utils.files import sha256_of, write_atomic, write_json, write_text
from utils.settings import to_plain

PACKAGE = "dual_task_synergy"  # the code inside a bundle
OUR_PACKAGES = ("utils", "models", "losses", "data", "methods", "engine")
NETWORK = "engine.bundle_network"
AT_RUN_TIME = ("torch", "numpy", "monai", "nibabel", "fire", "pytorch-ignite")
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)


def export_bundle(checkpoints: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """Write the stages in these checkpoints, by stage, as a bundle; returns its metadata.

    Raises FileExistsError where `folder` holds anything, FileNotFoundError or ValueError naming a
    checkpoint that is none or of another stage, or stages that do not follow each other.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: is there already; delete it or give another folder")
    need_packages("monai", "fire", "ignite")
    predictors = {
        stage: load_predictor(path, "cpu", "fp32", stage=stage)
        for stage, path in checkpoints.items()
    }
    order = order_stages([*predictors], {}, has_roi=False)
    predictors = {stage: predictors[stage] for stage in order}
    hashes = {stage: sha256_of(checkpoints[stage]) for stage in order}
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        needed = _write_code(partial / PACKAGE)
        metadata = _metadata(predictors, hashes, needed)
        _write_rest(partial, predictors, metadata)
        if folder.exists():
            folder.rmdir()  # an empty one
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return metadata


def _write_rest(
    folder: Path, predictors: Mapping[str, Predictor], metadata: dict[str, Any]
) -> None:
    """All but the code."""
    stages = {
        name: {"config": _portable_config(each), "sources": list(each.method.sources)}
        for name, each in predictors.items()
    }
    weights = {
        f"methods.{name}.{key}": value
        for name, each in predictors.items()
        for key, value in each.method.state_dict().items()
    }
    write_json(folder / "configs" / "stages.json", stages)
    write_json(folder / "configs" / "metadata.json", metadata)
    write_json(folder / "configs" / "inference.json", _inference(tuple(predictors)))
    write_atomic(folder / "models" / "model.pt", lambda handle: torch.save(weights, handle))
    write_text(folder / "LICENSE", (ROOT / "LICENSE").read_text(encoding="utf-8"))
    write_text(folder / "docs" / "README.md", _manual(metadata))


def _portable_config(predictor: Predictor) -> dict[str, Any]:
    """The config of a training without the places of its files."""
    plain: dict[str, Any] = to_plain(predictor.config)
    return {**plain, "centers": "centers.toml", "checkpoints": "checkpoints", "cache": "cache"}


def _write_code(folder: Path) -> dict[str, str]:
    """Ship the network's module and what it imports of ours; versions of what else it imports."""
    others: set[str] = set()
    for name, path in needed_modules(NETWORK).items():
        source = path.read_text(encoding="utf-8")
        others |= {top for top, _ in _imports(source) if top not in OUR_PACKAGES}
        parts = (*name.split("."), "__init__.py") if path.name == "__init__.py" else None
        place = folder.joinpath(*(parts or (*name.split(".")[:-1], path.name)))
        write_text(place, move_imports(source, PACKAGE))
    write_text(folder / "__init__.py", f'"""{NAME} {VERSION}, its prediction. {NOTICE}"""\n')
    owners = packages_distributions()
    names = {owners[top][0] for top in others if top in owners} | set(AT_RUN_TIME)
    return {name: version(name) for name in sorted(names, key=str.lower)}


def needed_modules(first: str) -> dict[str, Path]:
    """A module of ours, all that it imports of ours, directly or not, and their packages."""
    found: dict[str, Path] = {}
    waiting = [first]
    while waiting:
        name = waiting.pop()
        path = _module_path(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting.append(name.rpartition(".")[0])
        for top, names in _imports(path.read_text(encoding="utf-8")):
            waiting += names if top in OUR_PACKAGES else []
    return dict(sorted(found.items()))


def _module_path(name: str) -> Path | None:
    place = ROOT.joinpath(*name.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if name and path.is_file():
            return path
    return None


def _imports(source: str) -> Iterator[tuple[str, list[str]]]:
    """Each import of a file: the top package, and every name in it that may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], [alias.name]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield node.module.partition(".")[0], [node.module, *inner]


def move_imports(source: str, package: str) -> str:
    """A file's text with its imports of ours turned to the same modules inside `package`.

    Raises ValueError for `import data.case`: it binds a name that cannot be moved.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            ours = [a.name for a in node.names if a.name.partition(".")[0] in OUR_PACKAGES]
            if ours:
                raise ValueError(f"import {ours[0]}: write from ... import ... instead")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module.partition(".")[0] not in OUR_PACKAGES:
                continue
            line = lines[node.lineno - 1]
            start = node.col_offset + len("from ")
            lines[node.lineno - 1] = f"{line[:start]}{package}.{line[start:]}"
    return "".join(lines)


def _inference(stages: tuple[str, ...]) -> dict[str, Any]:
    """configs/inference.json: read, predict, write a mask of each stage on the scan's own grid."""
    here = f"{PACKAGE}.{NETWORK}"
    masks = [f"pred_{stage}" for stage in stages]
    save = [
        {
            "_target_": "SaveImaged",
            "keys": key,
            "output_dir": "@output_dir",
            "output_postfix": stage,
            "output_ext": ".nii.gz",
            "output_dtype": "$np.uint8",
            "resample": False,
            "separate_folder": True,
        }
        for key, stage in zip(masks, stages, strict=True)
    ]
    return {
        "imports": ["$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/eval'",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "precision": "auto",
        "scans": {"_target_": f"{here}.find_scans", "place": "@dataset_dir"},
        "network_def": {
            "_target_": f"{here}.Cascade",
            "stages": "$@bundle_root + '/configs/stages.json'",
            "precision": "@precision",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    "reader": "NibabelReader",
                    "ensure_channel_first": True,
                }
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@scans", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "SplitDimd",
                    "keys": "pred",
                    "dim": 0,
                    "output_postfixes": list(stages),
                },
                *save,
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
                "strict": True,
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "manifest": {"_target_": f"{here}.write_manifest", "_mode_": "callable"},
        "run": ["$@evaluator.run()", "$@manifest(@output_dir, @bundle_root, @scans)"],
    }


def _metadata(
    predictors: Mapping[str, Predictor], hashes: Mapping[str, str], packages: dict[str, str]
) -> dict[str, Any]:
    """configs/metadata.json: MONAI's keys, and of each stage what its ONNX file would say."""
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [-1024, 3071],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    pred = {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(predictors),
        "spatial_shape": ["*", "*", "*"],
        "dtype": "uint8",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {str(index): stage for index, stage in enumerate(predictors)},
    }
    core = ("torch", "numpy", "monai")
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "exported"},
        "monai_version": packages["monai"],
        "pytorch_version": packages["torch"].partition("+")[0],
        "numpy_version": packages["numpy"],
        "required_packages_version": {n: v for n, v in packages.items() if n not in core},
        "name": NAME,
        "task": "Segmentation of the pancreas and of pancreatic tumors in CT, coarse to fine",
        "description": "Stages of a cascade that segments the pancreas and then the tumor.",
        "authors": f"exported by {NAME} {VERSION}",
        "copyright": LICENSE,
        "intended_use": NOTICE,
        "data_source": "; ".join(
            f"{stage}: trained on {', '.join(each.method.sources) or 'unknown centers'}"
            for stage, each in predictors.items()
        ),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
        "stages": {
            stage: describe_stage(each, hashes[stage]) for stage, each in predictors.items()
        },
    }


def _manual(metadata: dict[str, Any]) -> str:
    """docs/README.md of the bundle."""
    stages = metadata["stages"]
    rows = "\n".join(
        f"| {stage} | {each['target']} | {each['method']} | {', '.join(each['sources'])} | "
        f"{each['threshold']} | {each['checkpoint_sha256']} |"
        for stage, each in stages.items()
    )
    required = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"]}
    required |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    packages = " ".join(f"{name}=={number}" for name, number in required.items())
    return f"""# {NAME} {VERSION}

**{NOTICE}**

Segments the pancreas, and then the tumor in it, in a CT: {len(stages)} networks, each of which
looks around what the one before found.

```
pip install {packages}
python -m monai.bundle run --config_file configs/inference.json \\
    --dataset_dir FOLDER --output_dir OUT
```

from this folder; from another one with `--bundle_root` and the config's whole path. FOLDER holds
NIfTI files (or is one) in Hounsfield units, in any orientation and voxel size. OUT gets, for each
scan, a mask of each stage on the scan's own grid, and manifest.json. `--device cpu` and
`--precision fp32` choose where and how it is computed.

In Python, `monai.bundle.load` and `create_workflow` work, and the network takes a MetaTensor:

```python
import sys
from pathlib import Path

import torch
from monai.transforms import LoadImage

sys.path.insert(0, "BUNDLE")
from {PACKAGE}.{NETWORK} import Cascade

network = Cascade("BUNDLE/configs/stages.json")
network.load_state_dict(torch.load("BUNDLE/models/model.pt", weights_only=True))
image = LoadImage(ensure_channel_first=True)("ct.nii.gz")
masks = network(image[None])  # (1, {len(stages)}, x, y, z), uint8: {", ".join(stages)}
```

`python -m monai.bundle verify_net_in_out --net_id network_def --any 64 \\
--meta_file configs/metadata.json --config_file configs/inference.json` checks shapes and types
(`PYTHONPATH=.` lets it find the code).

| stage | finds | method | trained on | threshold | sha256 of its checkpoint |
| --- | --- | --- | --- | --- | --- |
{rows}

Each stage's voxel size, HU window, margins and rounds are in configs/metadata.json. `{PACKAGE}/` is
the code that predicts, unchanged but for its imports. License: {LICENSE}.
"""
