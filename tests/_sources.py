"""The project's own source files, and what each of them imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT_FOLDERS = ("train_pancreas", "train_tumor", "evaluate_pancreas", "evaluate_tumor")


@functools.cache
def source_files(*, tests: bool = False) -> tuple[Path, ...]:
    """Python files of every folder of the project, and of its root; `tests/` only if asked for."""
    tops = [path for path in sorted(ROOT.iterdir()) if is_source_folder(path)]
    files = [path for top in tops for path in sorted(top.rglob("*.py"))]
    kept = [path for path in files if tests or path.relative_to(ROOT).parts[0] != "tests"]
    return (*kept, *sorted(ROOT.glob("*.py")))


def is_source_folder(path: Path) -> bool:
    """Whether a folder of the root is one of the project's: not hidden, nor full of results."""
    hidden = path.name.startswith((".", "__"))
    return path.is_dir() and not hidden and any(path.glob("*.py"))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The file, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """a/b.py -> a.b; a/__init__.py -> a."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module: str) -> str:
    """a.b.c -> a."""
    return module.partition(".")[0]


def is_script(path: Path) -> bool:
    """Whether the file can be run."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree_of(path).body
    )


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all modules that a file imports: at its top, in a function, for types."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            for alias in node.names:
                inner = ROOT / Path(*module.split("."), f"{alias.name}.py")
                yield f"{module}.{alias.name}" if inner.is_file() else module


def our_imports(path: Path) -> Iterator[str]:
    """Those of `imports` that are the project's own."""
    for module in imports(path):
        top = ROOT / package_of(module)
        if is_source_folder(top) or top.with_suffix(".py").is_file():
            yield module
