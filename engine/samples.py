"""A step's samples: crops on the device, augmented, with their targets; made ahead on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from data.dataset import Crop, Sample, load_on_device, make_sample, sample_seed
from engine.checkpointing import State
from utils.config import Config

AUGMENT = 1  # purpose of `sample_seed`; 0 is the crop's


@dataclass
class Group:
    """One step's samples. `shapes` (z, y, x) and `cases` are there of a crop that failed, too."""

    samples: list[Sample] = field(default_factory=list)
    generators: list[torch.Generator] = field(default_factory=list)  # of each sample, from there on
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)  # center/case
    error: Exception | None = None


class SampleFeed:
    """The samples of one step after the other, `count` each.

    On a GPU `begin` makes the next step's, in a stream of their own beside the backward pass that
    the GPU is still busy with; the host, which would wait for that pass, launches them meanwhile.
    They are the same as if `take` made them: nothing in them depends on the weights.
    """

    def __init__(self, config: Config, state: State, crops: Iterator[Crop], count: int) -> None:
        self._config, self._method, self._device = config, state.method, state.device
        self._crops, self._count = crops, count
        self._ahead: Group | None = None
        self._stream: torch.cuda.Stream | None = None
        if self._device.type == "cuda":  # before larger kernels that wait, so it ends first
            self._stream = torch.cuda.Stream(self._device, priority=-1)

    def begin(self) -> None:
        """Make the next samples, if that is not done yet; what fails is raised by `take`."""
        if self._stream is None or self._ahead is not None:
            return
        with torch.cuda.stream(self._stream):
            self._ahead = self._make()

    def take(self) -> Group:
        """The next samples. An error in making them is in the group, for the caller to raise."""
        group, self._ahead = self._ahead, None
        if group is None:
            group = self._make()
        elif self._stream is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_stream(self._stream)
            for sample in group.samples:
                for tensor in tensors_of(sample):
                    tensor.record_stream(here)
        if self._stream is not None:  # what it makes next begins behind what is launched by now
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return group

    def _make(self) -> Group:
        group = Group()
        try:
            for _ in range(self._count):
                self._add(next(self._crops), group)
        except Exception as error:  # also StopIteration, behind the last step
            group.error = error
        return group

    def _add(self, crop: Crop, group: Group) -> None:
        method, stage = self._method, self._config.stage
        seed = sample_seed(self._config.seed, crop.index, AUGMENT)
        generator = torch.Generator().manual_seed(seed)
        group.shapes.append(crop.resize_to or tuple(crop.image_hu.shape))
        group.cases.append(f"{crop.center}/{crop.case_id}")
        with torch.no_grad():
            image, label = load_on_device(crop, self._device)
            image, label = method.augment(image, label, crop.spacing, generator)
            domain = method.sources.index(crop.center) if method.sources else 0
            sample = make_sample(image, label, crop, stage, method.targets, domain)
        group.samples.append(sample)
        group.generators.append(generator)


def tensors_of(sample: Sample) -> list[Tensor]:
    """Those of a sample that are on a GPU."""
    values = (getattr(sample, part.name) for part in fields(sample))
    return [value for value in values if isinstance(value, Tensor) and value.is_cuda]
