"""How crops reach the training loop; what kills a reader is in test_outside_errors.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.data._utils import pin_memory as loader_protocol

from data.dataset import Crop, StageDataset
from data.prepare.prepared_case import PreparedCase
from engine import loading
from utils.config import Config
from utils.distributed import Distributed
from utils.stages import TUMOR_COARSE

Prepared = dict[str, list[PreparedCase]]


def test_a_crop_is_pinned_for_a_gpu_by_the_loaders_protocol(
    tiny_prepared: Prepared, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU nothing can be pinned: what is asked for, and that all else stays."""
    dataset = StageDataset(tiny_prepared["A"], TUMOR_COARSE, 0)
    crop, pinned = dataset[0], []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    kept = loader_protocol.pin_memory(crop)
    assert [tensor is own for tensor, own in zip(pinned, (crop.image_hu, crop.label), strict=True)]
    assert torch.equal(kept.image_hu, crop.image_hu)
    assert torch.equal(kept.label, crop.label)
    plain = {"image_hu": None, "label": None}
    assert replace(kept, **plain) == replace(crop, **plain)  # type: ignore[arg-type]
    asked: list[dict[str, object]] = []

    def loader(_: object, **told: object) -> list[Crop]:
        asked.append(told)
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(loading, "DataLoader", loader)
    for device in ("cpu", "cuda", "auto"):
        loading.load_crops(dataset, tiny_config(device=device), Distributed(), 0, 1)
    assert [told["pin_memory"] for told in asked] == [False, True, True]
