"""docs/results.md and comparison.md are what `reproduce/results.py` makes of committed cases."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reproduce.analysis.mixed_model import MixedEstimate
from reproduce.analysis.page import Page
from reproduce.analysis.results_page import BLOCKS, PLACEHOLDER, refresh_sections, render_page
from tests._rows_fixtures import benchmark_rows, key, make_cases, make_rows, write_experiment

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("results", "comparison")
MAX_LINES = 90  # of results.md with three seeds of every row of Table V; about 70 with two rows


def template_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.template.md").read_text(encoding="utf-8")


def render(text: str, results: Path) -> str:
    return render_page(text, Page(results))


@pytest.fixture(scope="module")
def committed() -> Page:
    """What is committed, read once."""
    return Page(ROOT / "results")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_made_of_the_committed_cases(name: str, committed: Page) -> None:
    made = render_page(template_of(name), committed)
    assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == made, (
        f"run python reproduce/results.py and commit docs/{name}.md"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/method.md"])
def test_a_pages_tables_are_made_of_the_committed_cases(name: str, committed: Page) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- {{" in text
    assert refresh_sections(text, committed) == text, "run python reproduce/results.py"


def test_the_page_of_results_is_short() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("name", PAGES)
def test_no_measured_number_is_typed_into_a_template(name: str) -> None:
    assert re.findall(r"\d+\.\d+", PLACEHOLDER.sub("", template_of(name))) == []


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three centers, three seeds; Ours is 6 points above BL, give or take."""
    rng = np.random.default_rng(0)
    base = {name: rng.normal(45, 9, 4) for name in "ABC"}
    gain = {"Ours": 6.0, "BL+IDR": -1.0}
    rows = benchmark_rows(
        lambda row, target, seed: base[target] + gain.get(row, 0) + rng.normal(0, 2, 4)
    )
    write_experiment(tmp_path / "results" / "benchmark", rows)
    return tmp_path / "results"


@pytest.mark.slow
def test_the_page_of_a_whole_benchmark_is_short_too(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sixteen fits, of which test_mixed_model.py has the numbers, would take most of the time
    fit = MixedEstimate(6.0, 5.0, 7.0, 0.001)
    monkeypatch.setattr("reproduce.analysis.compare.mixed_estimate", lambda *_: fit)
    page = Page(results)
    text = render_page(template_of("results"), page)
    assert len(text.splitlines()) <= MAX_LINES
    assert "| benchmark | small | 1 2 3 | A B C |" in text
    assert "| demo | | | | not measured | | all |" in text
    assert "{{" not in text
    verdict = text.splitlines()[2]
    assert verdict.startswith(
        "**On unseen centers Ours is above BL after the coarse stage (thresho"
    )
    assert "the fine stage (threshold target and source-val).**" in verdict
    assert "- How sure: 3 trainings of BL and Ours for each center; 95 % intervals" in text
    assert "{{" not in render_page(template_of("comparison"), page)


def test_numbers_are_those_of_the_cases(tmp_path: Path) -> None:
    found = {
        key("tumor_fine", target, method): make_cases([dsc, dsc + 10])
        for target, dsc in (("A", 30.0), ("B", 50.0))
        for method, dsc in (("bl", dsc), ("ours", dsc + 3))
    }
    write_experiment(tmp_path / "mine", make_rows(found, ("A", "B")))
    page = (
        "{{gain mine table5 Ours target}}|{{gain mine table5 BL+IDR target}}|{{count mine seeds}}|"
        "{{count mine cases}}|{{gain other table5 Ours target}}"
    )
    assert render(page, tmp_path).split("|") == [
        "+3.00 [3.00, 3.00]",
        "not measured",
        "1",
        "8",
        "not measured",
    ]
    table = render("{{rows mine}}", tmp_path).splitlines()
    assert len(table) == 4  # the rows that have results: BL and Ours
    assert table[2].startswith("| fine, target | BL | 35.00 | 55.00 | 45.00 [40.00, 50.00] |  |")
    assert "| 48.00 [43.00, 53.00] | +3.00 [3.00, 3.00] | one training | - | - | - |" in table[3]
    means = render("{{means mine other}}", tmp_path).splitlines()
    assert means[-3].startswith("| III | F-Seg | 48.00 [43.00, 53.00] / 20.80 / 52.00 | not meas")


def test_an_experiment_of_some_targets_shows_these(tmp_path: Path) -> None:
    found = {key("tumor_fine", "B"): make_cases([30.0]), key("tumor_fine", "B", heldout="A"): []}
    write_experiment(tmp_path / "part", make_rows(found, ("A", "B")))
    assert "| B | 2 cases" not in render("{{status part}}", tmp_path)
    assert "| B | 1 cases |" in render("{{status part}}", tmp_path)


@pytest.mark.parametrize("name", BLOCKS)
def test_what_is_not_exported_is_said(name: str, tmp_path: Path) -> None:
    more = {
        "count": "seeds",
        "shift_words": "BL",
        "shift": "BL",
        "gain": "table5 Ours target",
    }.get(name, "")
    text = render(f"{{{{{name} nothing {more}}}}}", tmp_path)
    assert text == "0" if name == "count" else "not measured" in text


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("{{speed benchmark}}", "unknown; choose from status, choice"),
        ("{{}}", "unknown; choose from"),
        ("{{facts}}", "wrong arguments"),
        ("{{count benchmark lines}}", "wrong arguments"),
    ],
)
def test_a_placeholder_that_cannot_be_filled_is_named(
    placeholder: str, message: str, tmp_path: Path
) -> None:
    write_experiment(tmp_path / "benchmark", make_rows({key("tumor_fine", "A"): []}, ("A",)))
    with pytest.raises(ValueError, match=re.escape(placeholder)) as caught:
        render(f"text {placeholder} text", tmp_path)
    assert message in str(caught.value)


@pytest.mark.slow
def test_the_command_writes_the_page_from_any_folder(tmp_path: Path) -> None:
    found = {key("pancreas_fine", "A"): make_cases([70.0, 80.0])}
    write_experiment(tmp_path / "results" / "demo", make_rows(found, ("A",)))
    (tmp_path / "page.template.md").write_text("{{count demo cases}} cases\n")
    (tmp_path / "readme.md").write_text("a\n<!-- {{count demo cases}} -->\n9\n<!-- end -->\nb\n")
    words = ["--results", "results", "--templates", "page.template.md", "--out", "out"]
    words += ["--pages", "readme.md"]
    script = ROOT / "reproduce" / "results.py"
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "page.md").read_text() == "2 cases\n"
    made = "a\n<!-- {{count demo cases}} -->\n2\n<!-- end -->\nb\n"
    assert (tmp_path / "readme.md").read_text() == made
