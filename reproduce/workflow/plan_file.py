"""The plan file that Snakemake reads, and what its steps leave in the experiment's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.files import write_json, write_text


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

    def entry(self, name: str) -> Entry:
        """The step of that name; KeyError for another."""
        return {step.name: step for step in self.steps}[name]

    def write(self) -> Path:
        """Write OUT/plan.json; raises ValueError where two steps are named alike."""
        names = [step.name for step in self.steps]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{self.out}: different steps of one name: {', '.join(twice)}")
        on_gpu = self.devices[0].startswith("cuda")
        steps = [
            asdict(step)
            | {"devices": len(self.devices) if step.alone and self.claims else 1}
            | {"gpus": int(on_gpu and not step.alone)}
            for step in self.steps
        ]
        path = self.out / "plan.json"
        own = {"out": str(self.out), "folder": str(self.folder), "steps": steps}
        own |= {name: getattr(self, name) for name in ("devices", "claims", "threads")}
        write_json(path, own)
        return path


def read_plan(path: Path) -> PlanFile:
    """What `PlanFile.write` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    names = ("name", "action", "request", "command", "alone", "facts")
    steps = tuple(
        Entry(needs=tuple(step["needs"]), **{name: step[name] for name in names})
        for step in plain["steps"]
    )
    return PlanFile(
        out=Path(plain["out"]),
        folder=Path(plain["folder"]),
        devices=tuple(plain["devices"]),
        claims=plain["claims"],
        threads=plain["threads"],
        steps=steps,
    )


def write_status(out: Path, name: str, status: Mapping[str, Any]) -> None:
    """Note in steps/NAME.json how a step is."""
    write_json(out / "steps" / f"{name}.json", dict(status))


def read_status(out: Path, name: str) -> dict[str, Any]:
    """What steps/NAME.json says; {} where the step has not begun."""
    path = out / "steps" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def write_mark(out: Path, name: str) -> None:
    """Write steps/NAME.done, for which Snakemake waits."""
    write_text(_mark(out, name), "")


def is_marked(out: Path, name: str) -> bool:
    """Whether the step has ended well in this call."""
    return _mark(out, name).is_file()


def forget_steps(out: Path, names: tuple[str, ...]) -> None:
    """Remove what an earlier call noted of these steps, so that they are run."""
    for name in names:
        _mark(out, name).unlink(missing_ok=True)
        (out / "steps" / f"{name}.json").unlink(missing_ok=True)


def _mark(out: Path, name: str) -> Path:
    return out / "steps" / f"{name}.done"
