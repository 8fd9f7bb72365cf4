"""The house: imports go one way, paths are set in one way, files stay short."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT_FOLDERS = ("train_pancreas", "train_tumor", "evaluate_pancreas", "evaluate_tumor")
PACKAGES = (
    *("data", "losses", "methods", "models", "utils", "engine", "reproduce"),
    "benchmarks",
)
MAX_LINES, MAX_SCRIPT_LINES = 400, 60
MAX_BYTES = 1_000_000
NEVER_TRACKED = (".pt", ".pth", ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".npy")
NAMELESS = ("util.py", "helpers.py", "common.py", "misc.py")

# What each package may import of ours beside itself. No module of one imports a script.
MAY_IMPORT = {
    "utils": (),
    "models": ("utils",),
    "losses": ("utils",),
    "data": ("utils",),
    "methods": ("models", "losses", "data", "utils"),
    "engine": ("methods", "models", "losses", "data", "utils"),
    "reproduce": ("engine", "methods", "models", "losses", "data", "utils"),
    "benchmarks": ("reproduce", "engine", "methods", "models", "losses", "data", "utils"),
}


def source_files(*folders: str) -> list[Path]:
    """Python files of the project, of these folders or of all but the tests."""
    tops = [ROOT / folder for folder in folders or (*PACKAGES, *SCRIPT_FOLDERS)]
    files = [path for top in tops for path in sorted(top.rglob("*.py"))]
    return files if folders else [*files, *sorted(ROOT.glob("*.py"))]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def our_imports(path: Path) -> Iterator[str]:
    """Our own modules that a file imports, at its top, inside a function or for types only."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = str(node.module)
            for alias in node.names:
                inner = ROOT / Path(*module.split("."), f"{alias.name}.py")
                yield f"{module}.{alias.name}" if inner.is_file() else module


def test_imports_go_one_way() -> None:
    against = []
    for path in source_files(*MAY_IMPORT):
        own = module_name(path).partition(".")[0]
        for imported in our_imports(path):
            if imported.partition(".")[0] not in (own, *MAY_IMPORT[own]):
                against.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert against == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {module_name(path): set(our_imports(path)) for path in source_files(*PACKAGES)}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for imported in sorted(graph.get(module, ())):
                visit(imported, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_nothing_imports_a_script() -> None:
    scripts = {module_name(path) for path in source_files() if is_script(path)}
    against = [
        f"{path.relative_to(ROOT)} imports {imported}"
        for path in source_files()
        for imported in our_imports(path)
        if imported in scripts
    ]
    assert against == []
    for path in source_files():
        text = path.read_text(encoding="utf-8")
        for folder in (*SCRIPT_FOLDERS, "demo", "predict"):
            assert f"from {folder}" not in text, path
            assert f"import {folder}" not in text, path


def is_script(path: Path) -> bool:
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in tree_of(path).body
    )


def path_edits(path: Path) -> list[str]:
    """Statements at the top of a file, or anywhere else, that name sys.path."""
    return [
        ast.unparse(node)
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign))
        and "sys.path" in ast.unparse(node)
    ]


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_a_script_in_a_folder_sets_the_path_and_all_do_it_alike(path: Path) -> None:
    depth = len(path.relative_to(ROOT).parts) - 1
    allowed = f"sys.path.insert(0, str(Path(__file__).resolve().parents[{depth}]))"
    needs = is_script(path) and depth > 0 and any(our_imports(path))
    assert path_edits(path) == ([allowed] if needs else [])


def test_no_import_takes_everything() -> None:
    for path in source_files(*PACKAGES, *SCRIPT_FOLDERS, "tests"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), path


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in source_files()
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES
    }
    assert not long


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS)
def test_a_stage_script_says_what_and_not_how(folder: str) -> None:
    files = source_files(folder)
    organ = folder.partition("_")[2]
    kind = folder.partition("_")[0]
    names = [f"{kind}_sh_{organ}_{step}.py" for step in ("coarse", "fine")]
    assert [path.name for path in files] == names
    for path in files:
        tree = tree_of(path)
        assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_SCRIPT_LINES
        assert ast.get_docstring(tree) is not None
        kinds = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While)
        assert not any(isinstance(node, kinds) for node in ast.walk(tree))


def test_no_file_is_a_drawer_for_everything() -> None:
    assert [path for path in source_files() if path.name in NAMELESS] == []


def test_every_file_says_what_it_is() -> None:
    without = [path for path in source_files() if ast.get_docstring(tree_of(path)) is None]
    assert without == []


def test_no_large_file_no_weights_and_no_scan_is_tracked() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    ).stdout.decode()
    if not listed:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    wrong = [p for p in paths if p.stat().st_size > MAX_BYTES or p.name.endswith(NEVER_TRACKED)]
    assert not wrong
