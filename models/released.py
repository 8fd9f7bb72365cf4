"""State dicts saved by the released scripts, loaded into our network: names, and nothing else.

Their network upsamples by nearest neighbor: build ours with `upsample="nearest"` to reproduce its
outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backbone import ResidualEncoderDecoder

RELEASED = "released"  # stands for the network where a method's name would
PREFIX = "module."  # what nn.DataParallel puts in front of every name
# Our modules and theirs, which stand for themselves and everything inside them.
MODULES = {
    "stem": "conv_4_32.0",
    "stage0": "layer0",
    "down1.0": "conv_32_64.0",
    "down1.1": "conv_32_64.2",
    "stage1": "layer1",
    "down2.0": "conv_64_128.0",
    "down2.1": "conv_64_128.2",
    "stage2": "layer2",
    "down3.0": "conv_128_256.0",
    "down3.1": "conv_128_256.2",
    "stage3": "layer3",
    "stage4": "layer4",
    "bottleneck.0": "fusionConv.0",
    "bottleneck.2": "fusionConv.3",
    "decoder3": "seg_x4.0",
    "decoder2": "seg_x2.0",
    "decoder1": "seg_x1.0",
    "segmentation_head": "seg_cls.0",
    "distance_head": "dt_cls.0",
    "projection_head": "proj.0",
    "slice_head.norm": "gn",
    "slice_head.fc1": "fc1",
    "slice_head.fc2": "fc2",
}
BLOCK_PARTS = {  # inside a residual block
    ".norm1": ".gn1",
    ".norm2": ".gn2",
    ".shortcut.0": ".downsample.0",
    ".shortcut.1": ".downsample.2",
}
HEADS = {  # keyword of `ResidualEncoderDecoder`: our module
    "distance": "distance_head",
    "projection": "projection_head",
    "slices": "slice_head",
}


def released_name(name: str) -> str:
    """The released scripts' name of our parameter `name`."""
    ours = next(ours for ours in MODULES if name.startswith(ours + "."))
    inner = name.removeprefix(ours)
    for part, theirs in BLOCK_PARTS.items():
        inner = inner.replace(part, theirs)
    return MODULES[ours] + inner


def load_released(
    source: str | Path | Mapping[str, Any], network: ResidualEncoderDecoder
) -> tuple[str, ...]:
    """Fill `network` from a state dict of the released scripts; return the heads that it lacks.

    `source`: a file, or the dictionary itself; the state dict may lie inside another dictionary,
    and `module.` may stand in front of its names. A head of `network` of which `source` has no key
    keeps the weights that it has, and is named in what is returned ("distance", "projection",
    "slices"). Raises ValueError, naming file and key, for a file that cannot be read, a missing or
    unexpected key, a wrong shape, or a number that is not finite; `network` is then unchanged.
    """
    where = "state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read(Path(source))
    state = _find_state(content)
    if state is None:
        raise ValueError(
            f"{where}: no {MODULES['stem']}.weight among its keys ({_listed(content)}); "
            "give a state dict saved by the released scripts"
        )
    theirs = {released_name(name): name for name in network.state_dict()}
    _check_unexpected(where, state, theirs)
    absent = tuple(head for head in HEADS if _is_absent(head, state, theirs))
    needed = {k: n for k, n in theirs.items() if not n.startswith(_modules_of(absent))}
    missing = [key for key in needed if key not in state]
    if missing:
        raise ValueError(f"{where}: missing key {_listed(missing)}; is the file complete?")
    own = network.state_dict()
    for key, name in needed.items():
        _check_value(where, key, state[key], own[name].shape)
    network.load_state_dict({name: state[key] for key, name in needed.items()}, strict=False)
    return absent


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file can make the unpickler raise anything
        cause = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: not readable as a PyTorch state dict ({type(error).__name__}: {cause}); "
            "it may be truncated or hold more than tensors: copy it again, or save only the "
            "state dict"
        ) from error


def _find_state(content: Any) -> dict[str, Any] | None:
    """The state dict in `content`, itself or nested, with the prefix taken off; None without."""
    if not isinstance(content, Mapping):
        return None
    state = {str(key).removeprefix(PREFIX): value for key, value in content.items()}
    if any(key.startswith(MODULES["stem"]) for key in state):
        return state
    nested = (_find_state(value) for value in content.values())
    return next((found for found in nested if found is not None), None)


def _check_unexpected(where: str, state: dict[str, Any], theirs: dict[str, str]) -> None:
    unexpected = [key for key in state if key not in theirs]
    if not unexpected:
        return
    for head, module in HEADS.items():
        names = [MODULES[m] for m in MODULES if m.startswith(module)]
        if any(unexpected[0].startswith(name + ".") for name in names):
            raise ValueError(
                f"{where}: key {unexpected[0]} belongs to a head that this network lacks; "
                f"build it with {head}=True"
            )
    raise ValueError(
        f"{where}: unexpected key {_listed(unexpected)}; these are not the released network's names"
    )


def _is_absent(head: str, state: dict[str, Any], theirs: dict[str, str]) -> bool:
    """Whether `state` has no key of `head`, or the network has no such head at all."""
    return not any(k in state for k, name in theirs.items() if name.startswith(HEADS[head] + "."))


def _modules_of(heads: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(HEADS[head] + "." for head in heads)


def _check_value(where: str, key: str, value: Any, shape: torch.Size) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{where}: {key} is a {type(value).__name__}; it must be a tensor")
    if value.shape != shape:
        raise ValueError(
            f"{where}: {key} has shape {tuple(value.shape)}, the network needs {tuple(shape)}; "
            "the released network has width 32"
        )
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{where}: {key} holds numbers that are not finite; copy the file again")


def _listed(keys: Any, limit: int = 5) -> str:
    names = (
        [str(key) for key in keys] if isinstance(keys, (Mapping, list)) else [type(keys).__name__]
    )
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
