"""The plan file that Snakemake reads, and what its steps note in the experiment's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import read_json, write_json, write_text
from utils.settings import from_plain, to_plain


@dataclass(frozen=True)
class Entry:
    """One step: `action` is "module:function", `request` what JSON can hold.

    `command` is for people. `alone`: it uses all processors, so that no other runs beside it.
    `facts` are noted with its state.
    """

    name: str
    action: str
    request: Any
    command: str = ""
    needs: tuple[str, ...] = ()
    alone: bool = False
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PlanFile:
    """The steps of one call, and how they are run.

    `out` has their logs and states; paths in requests are relative to `folder`. `claims`: each
    takes a free one of `devices`; without, it has a machine of its own, and its first device.
    `threads`: of each step; None: as many as its processors.
    """

    out: Path
    folder: Path
    devices: tuple[str, ...]
    claims: bool
    threads: int | None
    steps: tuple[Entry, ...]

    def write(self) -> Path:
        """Write OUT/plan.json; raises ValueError where two steps are named alike."""
        names = [step.name for step in self.steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.out}: different steps of one name: {', '.join(twice)}")
        path = self.out / "plan.json"
        write_json(path, to_plain(self))
        return path


def read_plan(path: Path) -> PlanFile:
    """What `PlanFile.write` wrote."""
    plain = read_json(path, "start reproduce/run.py again", ("steps",))
    plain["steps"] = tuple(from_plain(Entry, step) for step in plain["steps"])
    return from_plain(PlanFile, plain)


def write_status(out: Path, name: str, status: Mapping[str, Any]) -> None:
    """Note in steps/NAME.json how a step is."""
    write_json(out / "steps" / f"{name}.json", dict(status))


def read_status(out: Path, name: str) -> dict[str, Any]:
    """What steps/NAME.json says; {} where the step has not begun, or the file is damaged."""
    path = out / "steps" / f"{name}.json"
    try:
        return read_json(path, "the step is run again", ("status",))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        print(f"warning: {error}", flush=True)
        return {}


def write_mark(out: Path, name: str) -> None:
    """Write steps/NAME.done, for which Snakemake waits."""
    write_text(out / "steps" / f"{name}.done", "")


def forget_step(out: Path, name: str) -> None:
    """Remove what an earlier call noted of a step, so that it is run."""
    for kind in ("done", "json"):
        (out / "steps" / f"{name}.{kind}").unlink(missing_ok=True)
