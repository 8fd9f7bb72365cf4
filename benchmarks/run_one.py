"""One benchmark in this process: python benchmarks/run_one.py MODULE OUT [ARGUMENTS as JSON]

`run.py` starts it, so that memory and threads are the benchmark's own. Writes OUT: what `measure`
returned, or why it did not, and what the process has used.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.timing import peak_mib
from utils.commands import ROOT
from utils.files import write_json
from utils.scripts import ArgumentParser, run_script

DONE, MISSING, FAILED = "done", "not run", "failed"
INSTALL = {  # module -> what installs it; what is not here is in requirements-dev.txt
    "nnunetv2": "python -m pip install -r requirements-nnunet.txt",
    "dynamic_network_architectures": "python -m pip install -r requirements-nnunet.txt",
    "surface_distance": "python -m pip install surface-distance-based-measures",
}
DEVELOPMENT = "python -m pip install -r requirements-dev.txt"


def run_bench(module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`status`, `reason` where there is one, `values`, and what this process has used.

    A package that is not installed is no failure: the bench was not run, which is said.
    """
    started, cpu = time.perf_counter(), time.process_time()
    found: dict[str, Any] = {"status": DONE, "reason": "", "values": {}}
    try:
        values = importlib.import_module(f"benchmarks.{module}").measure(**arguments)
        found["values"] = plain(values)
    except ModuleNotFoundError as error:
        found |= _missing(module, error)
    except Exception as error:
        traceback.print_exc()
        found |= {"status": FAILED, "reason": f"{type(error).__name__}: {error}"}
    return found | {
        "wall_s": time.perf_counter() - started,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": peak_mib(),
        "children_peak_mib": peak_mib(children=True),
    }


def _missing(module: str, error: ModuleNotFoundError) -> dict[str, str]:
    """What a bench lacks; a module of the project itself that is missing is a failure."""
    name = str(error.name).partition(".")[0]
    if name == "benchmarks" and error.name == f"benchmarks.{module}":
        return {"status": MISSING, "reason": f"there is no benchmarks/{module}.py"}
    if (ROOT / name).exists() or (ROOT / f"{name}.py").exists():
        return {"status": FAILED, "reason": f"{type(error).__name__}: {error}"}
    return {"status": MISSING, "reason": f"needs {name}: {INSTALL.get(name, DEVELOPMENT)}"}


def plain(value: Any, place: str = "measure()") -> Any:
    """The result as JSON holds it. Raises ValueError where it holds anything but finite numbers,
    texts, None and dicts of them.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(part, f"{place}[{name!r}]") for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(part, f"{place}[{number}]") for number, part in enumerate(value)]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if isinstance(value, (int, float)) and math.isfinite(value):
        return value
    raise ValueError(f"{place}: {value!r} is no finite number; correct the benchmark")


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module")
    parser.add_argument("out", type=Path)
    parser.add_argument("arguments", nargs="?", type=json.loads, default={})
    asked = parser.parse_args(argv)
    run_script(lambda a: write_json(a.out, run_bench(a.module, a.arguments)), asked)


if __name__ == "__main__":
    main()
