"""The layout: imports go one way, paths are set in one way, files stay short."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests._sources import (
    ROOT,
    SCRIPT_FOLDERS,
    is_script,
    module_name,
    our_imports,
    package_of,
    source_files,
    tree_of,
)

# What each package may import of ours, apart from itself.
MAY_IMPORT = {
    "utils": (),
    "models": ("utils",),
    "losses": ("utils",),
    "data": ("utils",),
    "methods": ("models", "losses", "data", "utils"),
    "engine": ("methods", "models", "losses", "data", "utils"),
    "reproduce": ("engine", "methods", "models", "losses", "data", "utils"),
    "report": ("reproduce", "engine", "methods", "models", "losses", "data", "utils"),
    "benchmarks": ("reproduce", "engine", "methods", "models", "losses", "data", "utils"),
    **dict.fromkeys(SCRIPT_FOLDERS, ("engine", "utils")),
}
MAX_LINES, MAX_SCRIPT_LINES = 400, 60
MAX_BYTES = 1_000_000
NEVER_TRACKED = (".pt", ".pth", ".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".npy")
NAMELESS = ("util.py", "helpers.py", "common.py", "misc.py")


def test_imports_go_one_way() -> None:
    against = []
    for path in source_files():
        own = package_of(module_name(path))
        if path.parent == ROOT:  # a script of the root may import every package
            allowed = set(MAY_IMPORT)
        else:
            assert own in MAY_IMPORT, f"{own}/: enter what it may import"
            allowed = {own, *MAY_IMPORT[own]}
        for imported in our_imports(path):
            if package_of(imported) not in allowed:
                against.append(f"{path.relative_to(ROOT)} imports {imported}")
    assert against == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {module_name(path): set(our_imports(path)) for path in source_files()}
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


def test_imports_are_by_full_name_and_none_takes_everything() -> None:
    for path in source_files(tests=True):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                assert all(alias.name != "*" for alias in node.names), path


def path_edits(path: Path) -> list[str]:
    """Statements, at the top of a file or anywhere else, that name sys.path."""
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


def test_files_are_short() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files(tests=True)
    }
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


@pytest.mark.parametrize("folder", SCRIPT_FOLDERS)
def test_a_stage_script_says_what_and_not_how(folder: str) -> None:
    kind, _, organ = folder.partition("_")
    files = sorted((ROOT / folder).rglob("*.py"))
    names = [f"{kind}_sh_{organ}_{step}.py" for step in ("coarse", "fine")]
    assert [path.name for path in files] == names
    for path in files:
        assert is_script(path)
        assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_SCRIPT_LINES
        kinds = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While)
        assert not any(isinstance(node, kinds) for node in ast.walk(tree_of(path)))


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
