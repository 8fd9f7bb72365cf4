"""A device that counts what a GPU would be given to do, on a machine without one.

Its tensors hold their numbers in the CPU's memory, so results are real; the code under test sees a
device that is not the CPU, and takes the way that it takes on a GPU. Every operation of ATen that
reaches the device is one launch at least (some are several kernels of CUDA); views, and results
without elements, are none. The host waits where it needs a number (`item`, `tolist`, `bool`), or
a size that depends on the data (`nonzero`, `bincount`, indexing by a mask), where a tensor comes
back to it, and where one goes to the device without `non_blocking`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _foreach_supported_types as optimizer_types
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "counted"
ATEN = torch.ops.aten
READS = {  # their result, or its size, is a number that the host must know
    ATEN._local_scalar_dense,
    ATEN.nonzero,
    ATEN.masked_select,
    ATEN.equal,
    ATEN.is_nonzero,
    ATEN._unique2,
    ATEN.unique_dim,
    ATEN.unique_consecutive,
}
TWICE_READ = {ATEN.bincount}  # CUDA's asks for the least value and for the largest
INDEXING = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}
NO_LAUNCH = {
    ATEN._local_scalar_dense,
    ATEN.detach,
    ATEN.empty,
    ATEN.empty_like,
    ATEN.empty_strided,
    ATEN.lift_fresh,
    ATEN.new_empty,
    ATEN.new_empty_strided,
    ATEN._unsafe_view,
}
# Views that say how numbers are to be read, which a held tensor cannot: the copy that would come
# later is made here, and is a launch.
DONE_AT_ONCE = {ATEN._conj.default: torch.conj_physical, ATEN._neg_view.default: torch.neg}


class Counts:
    """Launches and waits, by the part of the step in which they were; and which they were."""

    def __init__(self) -> None:
        self.part = ""
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.operations: Counter[tuple[str, str, str]] = Counter()  # kind, part, name
        # Autograd's steps back, by their numbers from ... to, and the part that they belong to.
        self._backward: list[tuple[int, int, str]] = []
        self.accumulation: str | None = None  # the part of adding a gradient to a parameter's own

    @contextmanager
    def at(self, part: str, backward: str | None = None) -> Iterator[None]:
        """What is done inside the block belongs to `part`; its gradient to the part `backward`."""
        before, self.part = self.part, part
        first = _next_node()
        try:
            yield
        finally:
            self.part = before
            if backward is not None:
                self._backward.append((first, _next_node(), backward))

    def clear(self) -> None:
        """Begin again."""
        for counted in (self.launches, self.waits, self.operations, self._backward):
            counted.clear()

    def note(self, func: Any, *, launches: int, waits: int) -> None:
        """Add one operation."""
        part = self._current_part()
        for kind, counted, number in (
            ("launch", self.launches, launches),
            ("wait", self.waits, waits),
        ):
            if number:
                counted[part] += number
                self.operations[kind, part, str(func)] += number

    def _current_part(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.part
        if self.accumulation is not None and node.name().endswith("AccumulateGrad"):
            return self.accumulation
        number = node._sequence_nr()
        found = (part for first, last, part in self._backward if first <= number < last)
        return next(found, self.part)


def _next_node() -> int:
    """The number that autograd gives to the next operation with a gradient."""
    with torch.enable_grad():
        made = torch.zeros((), requires_grad=True).clone()
    assert made.grad_fn is not None
    return made.grad_fn._sequence_nr() + 1


_registered: list[torch.library.Library] = []  # what is registered is gone with its library
_counts: list[Counts] = []  # those that count now; backward passes may run in another thread


class CountedTensor(Tensor):
    """A tensor of the device; `held` is the one on the CPU that has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> CountedTensor:
        made: CountedTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=counted_device(),
        )
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.tolist:  # PyTorch refuses it for a subclass
            return args[0].cpu().tolist()
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Operations that make a tensor of the device from none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Numbers of the host that become a tensor of the device; PyTorch would not ask the modes."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func not in (torch.tensor, torch.as_tensor) or device is None:
            return func(*args, **kwargs)
        if torch.device(device).type != NAME:
            return func(*args, **kwargs)
        del kwargs["device"]
        return func(*args, **kwargs).to(device)


@cache
def counted_device() -> torch.device:
    """The device. It takes the place that PyTorch keeps for one backend of its user's."""
    module = ModuleType(NAME)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # type: ignore[attr-defined]
    module.is_available = lambda: True  # type: ignore[attr-defined]
    module.current_device = lambda: 0  # type: ignore[attr-defined]
    module._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    module.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]
    _setup_privateuseone_for_python_backend(NAME, module)
    # `CudaAutocast` makes the casts; without this line autocast would refuse every operation.
    _registered.append(torch.library.Library("_", "IMPL"))
    _registered[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # Optimizers take all parameters at once, as on a GPU.
    _foreach_utils._foreach_supported_types.append(CountedTensor)  # type: ignore[arg-type]
    optimizer_types.append(CountedTensor)
    return torch.device(NAME, 0)


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what the device is given inside the block."""
    counted_device()
    counts = Counts()
    _counts.append(counts)
    try:
        with _Factories(), _FromNumbers():
            yield counts
    finally:
        _counts.remove(counts)


def _map_tensors(kind: type[Tensor], function: Any, value: Any) -> Any:
    """`function` of each tensor of that kind in nested lists, tuples and dicts.

    PyTorch's own takes half of the time of a count.
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)([_map_tensors(kind, function, each) for each in value])
    if isinstance(value, dict):
        return {name: _map_tensors(kind, function, each) for name, each in value.items()}
    return value


def _leaves(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, tuple | list):
        return []
    return [leaf for each in value for leaf in _leaves(each)]


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the tensors that are held."""
    leaves = _leaves((args, kwargs))
    given = [leaf for leaf in leaves if isinstance(leaf, CountedTensor)]
    device = kwargs.get("device")
    on_device = bool(given) if device is None else torch.device(device).type == NAME
    held_args, held_kwargs = _map_tensors(CountedTensor, lambda t: t.held, (args, kwargs))
    if on_device and device is not None:
        held_kwargs["device"] = torch.device("cpu")
    if func is ATEN._to_copy.default and on_device != bool(given):
        made = held_args[0].to(dtype=held_kwargs.get("dtype"), copy=True)
    else:
        made = _compute(DONE_AT_ONCE.get(func, func), held_args, held_kwargs)
    if (on_device or given) and _counts:
        _counts[-1].note(
            func, launches=_launches(func, made), waits=_waits(func, args, kwargs, given, leaves)
        )
    if not on_device:
        return made
    own = {id(tensor.held): tensor for tensor in given}
    return _map_tensors(Tensor, lambda t: own[id(t)] if id(t) in own else CountedTensor(t), made)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result on the CPU; in float32 what CUDA does in bf16 and the CPU does not."""
    try:
        return func(*args, **kwargs)
    except NotImplementedError:
        args, kwargs = _map_tensors(Tensor, _widen, (args, kwargs))
        return _map_tensors(Tensor, _narrow, func(*args, **kwargs))


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _narrow(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.dtype == torch.float32 else tensor


def _launches(func: Any, made: Any) -> int:
    tensors = _leaves(made)
    is_empty = bool(tensors) and not any(tensor.numel() for tensor in tensors)
    is_view = func.is_view and func not in DONE_AT_ONCE
    return int(not (is_view or func.overloadpacket in NO_LAUNCH or is_empty))


def _waits(
    func: Any, args: Any, kwargs: dict[str, Any], given: list[CountedTensor], leaves: list[Tensor]
) -> int:
    packet = func.overloadpacket
    if packet in READS or func is ATEN.repeat_interleave.Tensor:
        return 1
    if packet in TWICE_READ:
        return 2
    if packet is ATEN._to_copy:
        to_host = bool(given) and torch.device(kwargs.get("device", NAME)).type != NAME
        from_host = not given
        return int(to_host or (from_host and not kwargs.get("non_blocking", False)))
    if packet is ATEN.copy_ and len(given) == 1:
        to_host = not isinstance(args[0], CountedTensor)
        return int(to_host or not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])))
    on_host = [leaf for leaf in leaves if not isinstance(leaf, CountedTensor)]
    if packet in INDEXING:
        by_mask = any(mask.dtype == torch.bool for mask in _leaves(args[1]))
        return int(by_mask or bool(on_host))
    return len(on_host) if packet is ATEN.where else 0
