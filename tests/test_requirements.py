"""The requirements files hold what is imported: requirements.txt for use, -dev for the rest.

What only one feature needs is in a file of its own, requirements-dicom.txt for one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from tests._sources import ROOT, imports, our_imports, package_of, source_files

# By us: torch.utils.tensorboard imports the first, the others are called as a command.
NOT_IMPORTED = {"tensorboard", "snakemake", "snakemake-executor-plugin-slurm"}
WITH_TORCH = {"triton"}  # torch's builds for a GPU bring it; without it models/gpu.py does without
NOT_FOR_USE = ("tests", "benchmarks")
NNUNET = "requirements-nnunet.txt"
OPTIONAL = ("requirements-dicom.txt", "requirements-export.txt", NNUNET)
# Pinned, imported by nnU-Net; by torch's exporter, and by MONAI's bundles.
NOT_BY_US = {
    *("torchvision", "dynamic_network_architectures"),
    *("onnxscript", "fire", "pytorch-ignite"),
}


def requirements(name: str) -> dict[str, str]:
    """Distribution, in lower case, -> version of a requirements file; every one is pinned."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert all(line.count("==") == 1 for line in kept), f"{name}: pin each as NAME==VERSION"
    return {line.split("==")[0].lower(): line.split("==")[1] for line in kept}


def distributions(paths: Iterable[Path]) -> set[str]:
    """The distributions, in lower case, that these files import."""
    known = packages_distributions()
    modules = {
        package_of(module)
        for path in paths
        for module in set(imports(path)) - set(our_imports(path))
    }
    found = {name: known.get(name, [name]) for name in modules - sys.stdlib_module_names}
    return {names[0].lower() for names in found.values()} - WITH_TORCH


def optional() -> set[str]:
    return {name for file in OPTIONAL for name in requirements(file)}


def is_for_use(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] not in NOT_FOR_USE


def test_a_user_gets_what_the_code_imports_and_no_more_than_that() -> None:
    imported = distributions(path for path in source_files() if is_for_use(path))
    assert optional() - NOT_BY_US <= imported
    assert (imported | NOT_IMPORTED) - optional() == set(requirements("requirements.txt"))


def test_a_developer_gets_what_tests_and_benchmarks_import_beside_it() -> None:
    use, develop = requirements("requirements.txt"), requirements("requirements-dev.txt")
    assert not use.keys() & develop.keys()
    imported = distributions(source_files(tests=True))
    assert imported <= use.keys() | develop.keys() | optional() | NOT_IMPORTED
    assert not (use.keys() | develop.keys()) & optional()
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    assert {f"-r {file}" for file in ("requirements.txt", *OPTIONAL)} <= set(lines)


def test_nnunet_is_imported_in_two_files_and_installed_with_our_torch() -> None:
    """Installed by a command of its own it would replace torch."""
    importers = [
        str(path.relative_to(ROOT))
        for path in source_files()
        if "nnunetv2" in map(package_of, imports(path))
        and path.parent.name != "benchmarks"  # there it is a peer, which may be missing
    ]
    assert importers == ["methods/external/launcher.py", "methods/external/trainers.py"]
    wanted = {"nnunetv2", "torchvision", "dynamic_network_architectures"}
    assert set(requirements(NNUNET)) == wanted
    assert "-r requirements.txt" in (ROOT / NNUNET).read_text().splitlines()
    assert requirements("requirements.txt")["torch"] == "2.13.0"  # what torchvision 0.28.0 is for
    assert requirements(NNUNET)["torchvision"] == "0.28.0"
