"""Settings: frozen dataclasses whose fields carry their explanation, source and range.

A field made by `setting` is an option of the command line, is checked, and is written to JSON and
read back with its type. `Config`, `Stage` and the settings of every method are such dataclasses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

Settings = TypeVar("Settings")


@dataclasses.dataclass(frozen=True)
class Range:
    """What a number, or each number of a tuple, may be; None: no bound.

    `above` and `below` exclude their bound, `least` and `most` include it. `rising`: a tuple's
    first number is not larger than its second.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    rising: bool = False

    @property
    def highest(self) -> float:
        """The largest number, both ends included; no setting means anything above `ENORMOUS`."""
        if self.most is not None:
            return self.most
        return ENORMOUS if self.below is None else self.below

    def fault(self, numbers: tuple[float, ...]) -> str:
        """What is wrong with the numbers, in words; "" where nothing is."""
        low, high = min(numbers), max(numbers)
        for broken, text in (
            (not all(map(_is_finite, numbers)), "a finite number"),
            (self.above is not None and low <= self.above, f"above {self.above}"),
            (self.least is not None and low < self.least, f"at least {self.least}"),
            (self.below is not None and high >= self.below, f"below {self.below}"),
            (high > self.highest, f"at most {self.highest:.10g}"),
            (self.rising and numbers[0] > numbers[-1], "the lower number first"),
        ):
            if broken:
                return text
        return ""


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond every float
        return isinstance(number, int)


ENORMOUS = 1e9
ANY = Range()
SEEDS = Range(least=0, below=2**63)
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(least=0)
AT_LEAST_1 = Range(least=1)
PROBABILITY = Range(least=0, most=1)


def setting(
    default: Any,
    text: str,
    source: str,
    choices: tuple[str, ...] = (),
    *,
    allowed: Range = ANY,
    affects_weights: bool = True,
) -> Any:
    """A dataclass field that knows what it means, where its value comes from and what it may be.

    `source`: the equation, section or page that states the default. `affects_weights`: whether a
    training with another value gives other weights (where files lie, for one, does not).
    """
    metadata = {
        **{"help": text, "source": source, "choices": choices},
        **{"allowed": allowed, "affects_weights": affects_weights},
    }
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def later(item: Any) -> Any:
    """A field made by `setting` whose default is what every run did before there was the setting.

    At its default it is no part of `weights_part`, so that such a run is still recognized.
    """
    return field(default=item.default, metadata={**item.metadata, "later": True})


def separate() -> Any:
    """A field that holds settings of another kind, which are not listed with its owner's."""
    return field(metadata={"separate": True})


def setting_names(cls: type) -> tuple[str, ...]:
    """Names of the fields of `cls` that a user may set."""
    return tuple(f.name for f in fields(cls) if "help" in f.metadata)


def option_name(name: str) -> str:
    """The option of a setting: `views.kernel_sizes` is given as `--views.kernel-sizes`."""
    return "--" + name.replace("_", "-")


def flatten(owner: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Dotted name, field and value of every setting of `owner`, those of its parts too.

    Not of fields made by `separate`.
    """
    for item in fields(owner):
        value = getattr(owner, item.name)
        if item.metadata.get("separate"):
            continue
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{prefix}{item.name}.")
        elif "help" in item.metadata:
            yield prefix + item.name, item, value


def check_settings(owner: Any) -> None:
    """Raise ValueError, naming option and range, for a value that a setting of `owner` cannot have.

    Each number must be finite and in its range; for a tuple, each of its numbers.
    """
    for name, item, value in flatten(owner):
        values = value if isinstance(value, tuple) else (value,)
        numbers = tuple(v for v in values if is_number(v))
        fault = item.metadata["allowed"].fault(numbers) if numbers else ""
        if fault:
            shown = " ".join(str(number)[:40] for number in numbers)
            raise ValueError(f"{option_name(name)} {shown}: {fault}")
        choices = item.metadata["choices"]
        if choices and value is not None and value not in choices:
            raise ValueError(f"{option_name(name)} {value}: choose from {', '.join(choices)}")


def override(owner: Settings, values: Mapping[str, Any], place: str = "") -> Settings:
    """A copy of frozen `owner` with `values` by dotted name ("augment.rotation_degrees").

    The values of a mapping are merged into it. A ValueError names an unknown setting and the
    choices, or a value of another type.
    """
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    known = {item.name: getattr(owner, item.name) for item in fields(owner)}  # type: ignore[arg-type]
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if head not in known:
            raise ValueError(f"unknown setting {place + head!r}; choose from {', '.join(known)}")
        if dot:
            nested.setdefault(head, {})[rest] = value
        else:
            changes[head] = _matching(known[head], value, place + name)
    for head, inner in nested.items():
        if not dataclasses.is_dataclass(known[head]):
            raise ValueError(f"setting {place + head!r} is a value; it has no parts")
        changes[head] = override(known[head], inner, f"{place}{head}.")
    return dataclasses.replace(owner, **changes)  # type: ignore[type-var]


def _matching(default: Any, value: Any, name: str) -> Any:
    """`value` in the type of its default: a list as a tuple, a whole number as a real one."""
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        return {**default, **value}
    if isinstance(default, tuple) and isinstance(value, (list, tuple)) and default and value:
        is_range = isinstance(default[0], float)  # as long as its default; kernel sizes are not
        if not is_range or len(value) == len(default):
            return tuple(_matching(default[0], item, name) for item in value)
    if isinstance(default, float) and type(value) in (int, float):
        return float(value)
    if default is not None and (type(default) is not type(value) or isinstance(value, float)):
        raise ValueError(f"setting {name!r}: {value!r} is not like its default {default!r}")
    return value


def to_plain(value: Any) -> Any:
    """Dataclasses, paths, tuples and mappings as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_plain(cls: type[Settings], values: Any) -> Settings:
    """The inverse of `to_plain` for a settings dataclass.

    Raises ValueError where a key is unknown or missing.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"not settings of this version: {type(values).__name__} for {cls.__name__}"
        )
    hints = get_type_hints(cls)
    built: dict[str, Any] = {}
    for name, value in values.items():
        kind = hints.get(name)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            value = from_plain(kind, value)
        elif isinstance(value, list):
            value = tuple(value)
        built[name] = Path(value) if kind is Path else value
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"not settings of this version: {error}") from error


def weights_part(owner: Any) -> dict[str, Any]:
    """`to_plain` without the settings that leave a training's weights as they are.

    Nor those that came `later` and have their default.
    """
    plain = to_plain(owner)
    for item in fields(owner):
        value = getattr(owner, item.name)
        as_before = item.metadata.get("later", False) and value == item.default
        if as_before or not item.metadata.get("affects_weights", True):
            del plain[item.name]
        elif dataclasses.is_dataclass(value):
            plain[item.name] = weights_part(value)
    return plain


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
