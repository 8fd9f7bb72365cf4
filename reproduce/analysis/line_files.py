"""Data beside the exported cases: `results/<experiment>/<folder>/`, a CSV for each training.

A training is a method, a target and a seed; a line is what one of its cases gave.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from reproduce.analysis.render import to_csv
from reproduce.analysis.rows import digest_files
from utils.files import read_json, write_text

NOTE = "experiment.json"
Line = TypeVar("Line")


@dataclass(frozen=True)
class LineFiles(Generic[Line]):
    """The files of one kind of line.

    `kind`: a frozen dataclass of text, whole numbers and numbers; `values`: its fields that were
    measured, the others tell a line from every other. `script`: what makes the files.
    """

    folder: str
    kind: type[Line]
    values: tuple[str, ...]
    script: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the CSV, in order."""
        return tuple(item.name for item in fields(self.kind))  # type: ignore[arg-type]

    def path(self, results: Path, method: str, target: str, seed: int) -> Path:
        """The file of a training, in `results/<experiment>`."""
        return results / self.folder / f"{method}_{target}_seed{seed}.csv"

    def key(self, line: Line) -> tuple[object, ...]:
        """What tells a line from every other."""
        return tuple(getattr(line, name) for name in self.columns if name not in self.values)

    def read_all(self, results: Path) -> list[Line]:
        """Every line of `results/<experiment>/<folder>/`.

        Raises FileNotFoundError where there is none, and ValueError where a line cannot be read or
        is there twice, or a file was changed since it was noted.
        """
        place = results / self.folder
        paths = sorted(place.glob("*.csv"))
        if not paths:
            raise FileNotFoundError(f"{place}: nothing is there; {self.script} makes it")
        self._refuse_changed(place)
        found = [line for path in paths for line in self.read(path)]
        if len({self.key(line) for line in found}) < len(found):
            raise ValueError(f"{place}: the same case is there twice; remove a file")
        return found

    def read(self, path: Path) -> list[Line]:
        """The lines of a file; [] where there is none. ValueError names file and line."""
        if not path.is_file():
            return []
        found, hints = [], get_type_hints(self.kind)
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            for text in reader:
                try:
                    values = {name: hints[name](_given(text[name])) for name in self.columns}
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: cannot be read ({error!r}); remove the "
                        "file, and what it held is computed again"
                    ) from error
                found.append(self.kind(**values))
        return found

    def write(self, path: Path, lines: Iterable[Line]) -> None:
        """Write one file, six digits of each number that was measured."""
        write_text(path, to_csv(self.columns, [self._cells(line) for line in lines]))

    def _cells(self, line: Line) -> dict[str, Any]:
        return {
            name: f"{value:.6g}" if isinstance(value, float) else value
            for name, value in asdict(line).items()  # type: ignore[call-overload]
        }

    def _refuse_changed(self, place: Path) -> None:
        """Raise ValueError where a file is not the one that the last call noted."""
        note = place / NOTE
        noted = read_json(note, "delete it").get("files", {}) if note.is_file() else {}
        changed = [name for name, digest in digest_files(place).items() if name in noted
                   and noted[name] != digest]  # fmt: skip
        if changed:
            raise ValueError(
                f"{place}: {', '.join(changed)} changed since {NOTE} noted it; restore the file, "
                f"or give the command of {NOTE} again, which ends what a kill has left"
            )


def cases_of(lines: Sequence[Any], **wanted: object) -> set[str]:
    """The names of the cases that have a line with these values."""
    return {
        line.case_id
        for line in lines
        if all(getattr(line, name) == value for name, value in wanted.items())
    }


def _given(text: str | None) -> str:
    """A cell; TypeError where the line is too short."""
    if text is None:
        raise TypeError("the line is too short")
    return text
