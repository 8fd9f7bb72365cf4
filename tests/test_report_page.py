"""The page as a file: its policy, what is escaped, its size, which cases come first."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import report.page
from report.contents import Contents, ReportCase, ResultRows
from report.page import build_report, by_importance, niivue_script, script_safe
from tests._report_fixtures import HOSTILE, make_contents, text_of


class Elements(HTMLParser):
    """The start tags with their attributes, and the text of scripts and styles, as a browser
    would find them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag in ("script", "style")
        if self.inside:
            self.texts.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, before = self.texts[-1]
            self.texts[-1] = (tag, before + data)


def read(path: Path) -> Elements:
    return Elements(text_of(path))


def data_of(path: Path) -> dict:
    found = re.search(r'id="data">(.*?)</script>', text_of(path))
    assert found is not None
    return json.loads(found[1])


def test_the_policy_allows_the_pages_own_scripts_and_style_and_nothing_else(tmp_path: Path) -> None:
    page = read(build_report(tmp_path / "page.html", make_contents()))
    (policy,) = [
        attrs["content"]
        for tag, attrs in page.tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert set(rules) == {
        *("default-src", "script-src", "style-src", "img-src", "base-uri", "form-action")
    }
    kinds = [attrs.get("type") for tag, attrs in page.tags if tag == "script"]
    scripts = [text for tag, text in page.texts if tag == "script"]
    run = [text for text, kind in zip(scripts, kinds, strict=True) if kind is None]
    assert len(run) == 2
    styles = [text for tag, text in page.texts if tag == "style"]
    for name, texts in (("script-src", run), ("style-src", styles)):
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        expected = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        assert rules[name].split() == expected


def test_nothing_in_the_page_points_out_of_it(tmp_path: Path) -> None:
    page = read(build_report(tmp_path / "page.html", make_contents()))
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "style", "srcset"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/png")), (tag, name, value)
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)


def test_names_from_files_stay_text(tmp_path: Path) -> None:
    contents = make_contents((HOSTILE, "b"), title=HOSTILE)
    hostile = replace(
        contents,
        lead=[HOSTILE],
        facts={HOSTILE: HOSTILE},
        checkpoints={HOSTILE: HOSTILE},
        tables=[replace(contents.tables[0], title=HOSTILE, notes=(HOSTILE,))],
        results=[ResultRows(HOSTILE, contents.results[0].rows)],
    )
    plain = read(build_report(tmp_path / "plain.html", make_contents(("a", "b"))))
    page = read(build_report(tmp_path / "page.html", hostile))
    assert "img" not in [tag for tag, _ in page.tags]
    count = sum(tag == "script" for tag, _ in plain.tags)
    assert sum(tag == "script" for tag, _ in page.tags) == count
    assert data_of(tmp_path / "page.html")["cases"][0]["id"] == HOSTILE


def test_data_in_a_script_cannot_end_it() -> None:
    text = script_safe({"a": "</script><!-- & "})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & "}


def test_worst_and_best_come_first() -> None:
    assert by_importance(make_contents()) == [0, 1, 3, 2]  # 20, 80, 35, 50 %
    unlabeled = [{"case_id": "a"}, {"case_id": "b"}]
    cases = [ReportCase("b"), ReportCase("a")]
    assert by_importance(Contents("x", cases, [ResultRows("r", unlabeled)])) == [0, 1]
    assert by_importance(Contents("x", cases, [])) == [0, 1]


def test_volumes_for_the_first_cases_pictures_for_more(tmp_path: Path) -> None:
    path = build_report(tmp_path / "page.html", make_contents(), viewers=2, pictures=3)
    cases = data_of(path)["cases"]
    assert [case["volume"] for case in cases] == [True, True, False, False]
    assert [case["pictures"] for case in cases] == [True, True, False, True]
    page = read(path)
    ids = {attrs.get("id") for _, attrs in page.tags}
    assert {"image-0", "masks-0", "image-1", "masks-1", "pictures-3"} <= ids
    assert not {"image-2", "image-3", "pictures-2"} & ids


def test_without_volumes_the_viewers_script_stays_out(tmp_path: Path) -> None:
    path = build_report(tmp_path / "page.html", make_contents(), viewers=0)
    assert path.stat().st_size < 1_000_000
    assert path.stat().st_size > len(make_contents().cases) * 3000


@pytest.mark.parametrize("room", [20_000, 60_000, 200_000])
def test_a_page_stays_under_its_size(tmp_path: Path, room: int) -> None:
    contents = make_contents(tuple(f"case {n}" for n in range(6)))
    bare = build_report(tmp_path / "bare.html", contents, viewers=0, pictures=0).stat().st_size
    limit = bare + 6 * report.page.FACTS_BYTES + len(niivue_script()) + room
    path = build_report(tmp_path / "page.html", contents, max_bytes=limit)
    assert path.stat().st_size <= limit
    cases = data_of(path)["cases"]
    carried = sum(case["pictures"] for case in cases)
    assert carried > 0
    if room == 200_000:
        assert all(case["volume"] for case in cases)
    else:
        assert not all(case["volume"] for case in cases)


def test_numbers_that_take_more_than_the_page_may_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"its numbers alone take .* MB; allow more than 0\.0 MB"):
        build_report(tmp_path / "page.html", make_contents(), max_bytes=30_000)


def test_unknown_numbers_are_null(tmp_path: Path) -> None:
    rows = [
        {"case_id": "a", "dsc": float("nan"), "hd95_mm": np.float32(2.5), "note": "seen"},
        {"case_id": "b", "dsc": 1.23456789},
    ]
    contents = Contents("x", [ReportCase("a"), ReportCase("b")], [ResultRows("r", rows)])
    (result,) = data_of(build_report(tmp_path / "page.html", contents))["results"]
    assert [column["name"] for column in result["columns"]] == ["dsc", "hd95_mm", "note"]
    assert result["rows"] == [[0, None, 2.5, "seen"], [1, 1.23457, None, None]]


def test_a_changed_viewer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    niivue_script.cache_clear()
    monkeypatch.setattr(report.page, "NIIVUE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="check it out again"):
        niivue_script()


def test_every_notice_of_the_viewer_is_in_the_page(tmp_path: Path) -> None:
    text = text_of(build_report(tmp_path / "page.html", make_contents()))
    for name in ("Copyright (c) 2021, Niivue", "nifti-reader-js", "fflate", "gl-matrix", "Roboto"):
        assert name in text


def test_tables_facts_and_the_caution_are_there(tmp_path: Path) -> None:
    text = text_of(build_report(tmp_path / "page.html", make_contents()))
    for part in ("46.25 (46.11, +0.14)", "A note.", "ab" * 32, "python x.py", "no medical device"):
        assert part in text


def test_a_row_of_no_case_and_a_case_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="r: b is no case of the page"):
        Contents("x", [ReportCase("a")], [ResultRows("r", [{"case_id": "b"}])])
    with pytest.raises(ValueError, match="a of center 'C' is listed twice"):
        Contents("x", [ReportCase("a", "C"), ReportCase("a", "C")], [])
