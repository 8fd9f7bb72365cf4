"""Lines of frozen dataclasses as CSV files: what is measured beside the evaluations, as data.

A field is a column, in order; numbers have six digits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from reproduce.analysis.render import to_csv
from utils.files import write_text

Line = TypeVar("Line")


def write_lines(path: Path, kind: type[Line], lines: Iterable[Line]) -> None:
    """Write one file, in one go. `kind`: a dataclass of texts, whole numbers and real ones."""
    columns = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    rows = [
        {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in asdict(line).items()}  # type: ignore[call-overload]
        for line in lines
    ]
    write_text(path, to_csv(columns, rows))


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The lines of one file; [] where there is none. Raises ValueError, naming file and line."""
    if not path.is_file():
        return []
    hints = get_type_hints(kind)
    found = []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        for line in reader:
            try:
                found.append(_parse(kind, hints, line))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {reader.line_num}: cannot be read ({error!r}); remove the file, "
                    "and what it held is computed again"
                ) from error
    return found


def _parse(kind: type[Line], hints: Mapping[str, Any], line: Mapping[str, str]) -> Line:
    return kind(**{name: hint(line[name]) for name, hint in hints.items()})
