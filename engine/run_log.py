"""The log of a run: log.csv always, TensorBoard events where wanted."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import naming
from utils.files import write_text

EVENTS = "events"

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def log_columns(terms: Sequence[str]) -> tuple[str, ...]:
    """The columns of log.csv for a method with these loss terms."""
    return ("step", "epoch", "lr", "total", *terms, "grad_norm", "cases")


class RunLog:
    """One row per step. Opened at step n it forgets rows behind n, which a kill left over."""

    def __init__(
        self,
        folder: Path,
        terms: Sequence[str],
        step: int,
        tensorboard: bool = False,
        active: bool = True,
    ) -> None:
        """`terms`: a column each, also where a stage leaves the term out."""
        self._file: Any = None
        self._events: SummaryWriter | None = None
        self.columns = log_columns(terms)
        if not active:
            return
        path = self._path = folder / "log.csv"
        keep_rows(path, step, self.columns)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def write(
        self, step: int, epoch: int, lr: float, values: Mapping[str, float], cases: Sequence[str]
    ) -> None:
        """Note one step; terms that the stage leaves out stay empty."""
        if self._file is None:
            return
        names = self.columns[3:-1]
        terms = [f"{values[name]:.6g}" if name in values else "" for name in names]
        with naming(self._path):
            self._writer.writerow([step, epoch, f"{lr:.6g}", *terms, " ".join(cases)])
        if self._events is not None:
            with naming(self._path.with_name(EVENTS)):
                self._events.add_scalar("lr", lr, step)
                for name, value in values.items():
                    self._events.add_scalar(f"loss/{name}", value, step)

    def flush(self) -> None:
        """Hand every row to the operating system."""
        if self._file is not None:
            with naming(self._path):
                self._file.flush()

    def close(self) -> None:
        """Write what is left and close the files.

        A full disk is no error here: a resumed run writes the rows behind its checkpoint again.
        """
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        self._file = None
        with suppress(OSError):
            if self._events is not None:
                self._events.close()


def keep_rows(path: Path, step: int, columns: Sequence[str]) -> None:
    """Make `path` a log with its header and the whole rows of steps 1 to `step`."""
    rows = [list(columns)]
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
        for row in csv.reader(text.splitlines()):
            if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) <= step:
                rows.append(row)
    if path.is_file() and len(rows) <= step:
        missing = step - len(rows) + 1
        print(f"warning: {path}: the rows of {missing} steps are missing or damaged", flush=True)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_text(path, buffer.getvalue())
