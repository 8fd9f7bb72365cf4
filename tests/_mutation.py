"""Change one thing in the code that matters most, and see whether a test notices: `make mutation`.

For each of `SUBJECTS` a seeded sample of mutants is drawn: a comparison turned, an operator
exchanged, a constant moved by one, a condition negated, a returned value dropped, a call that
stands alone left out. Each is run against the tests named there, in a process of its own that is
forked after the heavy imports, with the mutant in the module's place. A mutant that no test notices
is printed. It takes some minutes, so `make test` does not run it.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 180  # of a mutant; one that takes longer counts as noticed: it does not end
# module -> the tests that must notice
SUBJECTS = {
    "losses.segmentation": ("test_segmentation",),
    "losses.distance": ("test_distance",),
    "losses.conversion": ("test_conversion",),
    "losses.contrast": ("test_contrast",),
    "losses.consistency": ("test_consistency",),
    "data.targets.sdm": ("test_sdm",),
    "data.targets.anchors": ("test_anchors",),
    "data.views": ("test_views",),
    "data.roi": ("test_roi",),
    "data.splits": ("test_splits",),
    "utils.boxes": ("test_boxes",),
    "utils.metrics": ("test_metrics",),
    "utils.postprocess": ("test_postprocess",),
    "utils.files": ("test_files", "test_run_folders", "test_outside_errors"),
    "engine.run_folders": ("test_run_folders",),
    "engine.case_metrics": ("test_case_metrics",),
    "reproduce.analysis.stats": ("test_stats",),
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of a module: its tree, and where and what it is."""

    module: str
    line: int
    text: str
    tree: ast.Module


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    found = []
    for number in range(count):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[number]
        for text, change in changes_of(node):
            mutated = copy.deepcopy(tree)
            change(list(ast.walk(mutated))[number])
            if ast.dump(mutated) != ast.dump(tree):
                line = getattr(node, "lineno", 0)
                found.append(Mutant(module, line, text, ast.fix_missing_locations(mutated)))
    return sorted(found, key=lambda mutant: mutant.line)


def changes_of(node: ast.AST) -> Iterator[tuple[str, Callable[..., object]]]:
    """What can be changed in a node: a text for the reader, and what does it."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        other = COMPARISONS[type(node.ops[0])]
        yield f"{ast.unparse(node)}: {other.__name__}", lambda n: n.ops.__setitem__(0, other())
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS and not _is_type(node):
        operator = OPERATORS[type(node.op)]
        yield f"{ast.unparse(node)}: {operator.__name__}", lambda n: setattr(n, "op", operator())
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = ast.literal_eval(ast.unparse(node)) + 1
        yield f"{ast.unparse(node)} -> {value}", lambda n: setattr(n, "value", value)
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield f"not ({ast.unparse(node.test)})", _negate
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield f"{ast.unparse(node)}: None", lambda n: setattr(n, "value", ast.Constant(None))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"without {ast.unparse(node)}", lambda n: setattr(n, "value", ast.Constant(None))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield f"{ast.unparse(node)}: no sign", lambda n: setattr(n, "op", ast.UAdd())


def _is_type(node: ast.BinOp) -> bool:
    """Whether `A | B` names types: an annotation, which nothing evaluates."""
    names = (ast.Name, ast.Subscript, ast.Attribute, ast.Constant)
    return (
        isinstance(node.op, ast.BitOr)
        and isinstance(node.right, names)
        and (ast.unparse(node.right) == "None" or ast.unparse(node.left)[0].isupper())
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _negate(node: ast.AST) -> None:
    assert isinstance(node, (ast.If, ast.IfExp))
    node.test = ast.UnaryOp(ast.Not(), node.test)


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mutant in its module's place."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self.mutant.module:
            return None
        where = ROOT / Path(*name.split(".")).with_suffix(".py")
        return importlib.util.spec_from_file_location(name, where, loader=self)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self.mutant.tree, str(module.__file__), "exec")
        exec(code, module.__dict__)


def is_noticed(mutant: Mutant, tests: Sequence[str]) -> bool:
    """Whether a test fails, or does not end, with the mutant in place."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(SECONDS)
        sys.meta_path.insert(0, Replaced(mutant))
        import pytest

        files = [str(ROOT / "tests" / f"{name}.py") for name in tests]
        quick = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
        os._exit(0 if pytest.main([*quick, *files]) == pytest.ExitCode.OK else 1)
    _, status = os.waitpid(child, 0)
    return status != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=3, help="mutants of each module (default: 3)")
    parser.add_argument("--seed", type=int, default=2022)
    parser.add_argument("--module", nargs="+", choices=tuple(SUBJECTS), default=tuple(SUBJECTS))
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["OMP_NUM_THREADS"] = "1"
    # The heavy imports, once for all mutants; none of ours, which the mutants replace.
    import monai.inferers
    import scipy.stats
    import SimpleITK
    import skimage.measure
    import torch

    assert all((monai.inferers, scipy.stats, SimpleITK, skimage.measure))
    torch.set_num_threads(1)
    drawn = random.Random(args.seed)
    noticed = total = 0
    for module in args.module:
        every = mutants_of(module)
        chosen = sorted(drawn.sample(range(len(every)), min(args.each, len(every))))
        for mutant in (every[index] for index in chosen):
            total += 1
            if is_noticed(mutant, SUBJECTS[module]):
                noticed += 1
            else:
                print(f"NOT NOTICED {mutant.module}:{mutant.line}: {mutant.text}", flush=True)
        print(f"{module}: {len(chosen)} of {len(every)} tried", flush=True)
    print(f"{noticed} of {total} mutants noticed (seed {args.seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
