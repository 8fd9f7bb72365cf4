"""Sites: one data set, split into centers by a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.case import Center, DataError
from data.centers import load_centers
from data.readers import list_center
from data.readers.sites import read_table
from tests.volumes import make_image_hu, write_volume

TABLE = "name;Site;age\nc1.nii.gz;NORTH;61\nc2;SOUTH;70\nc3;NORTH;\nc9;NORTH;50\n"


def data_set(root: Path, table: str = TABLE) -> Path:
    for number in (1, 2, 3, 4):
        write_volume(root / "images" / f"c{number}.nrrd", make_image_hu(number))
    path = root / "sites.csv"
    path.write_text(table, encoding="utf-8-sig")
    return path


def center_of(root: Path, *site: str, **keys: object) -> Center:
    keys = {"sites": root / "sites.csv", "site": site, **keys}
    return Center("C", "folder", root, **keys)  # type: ignore[arg-type]


def ids(center: Center) -> list[str]:
    return [case.case_id for case in list_center(center).cases]


def test_the_cases_of_a_site_are_the_center(tmp_path: Path) -> None:
    data_set(tmp_path)
    assert ids(center_of(tmp_path, "NORTH")) == ["c1", "c3"]
    assert ids(center_of(tmp_path, "SOUTH")) == ["c2"]
    assert ids(center_of(tmp_path, "SOUTH", "NORTH")) == ["c1", "c2", "c3"]
    reasons = dict(list_center(center_of(tmp_path, "SOUTH")).left_out)
    assert "is in no row" in reasons["c4"]
    assert "gives to other sites 2 cases: NORTH (2)" in reasons[str(tmp_path / "sites.csv")]
    left_out = list_center(center_of(tmp_path, "NORTH")).left_out
    assert any("names 1 cases of this site that have no files (c9)" in r for _, r in left_out)


def test_a_row_of_a_patient_counts_for_all_scans(tmp_path: Path) -> None:
    for name in ("P1_a", "P1_b", "P2_a"):
        write_volume(tmp_path / "images" / f"{name}.nrrd", make_image_hu())
    (tmp_path / "sites.csv").write_text("patient,site\nP1,N\nP2,S\n")
    center = center_of(tmp_path, "N", patient_pattern=r"^(P\d+)_")
    assert ids(center) == ["P1_a", "P1_b"]


def test_unknown_sites_and_columns_are_named_with_the_choices(tmp_path: Path) -> None:
    data_set(tmp_path)
    with pytest.raises(DataError, match=r"C: .*no site 'WEST'; choose from NORTH \(3\), SOUTH"):
        list_center(center_of(tmp_path, "WEST"))
    with pytest.raises(DataError, match=r"no column 'hospital'; set site_column to one of 'name'"):
        list_center(center_of(tmp_path, "NORTH", site_column="hospital"))
    with pytest.raises(DataError, match=r"no column 'id'; set site_case_column to one of"):
        list_center(center_of(tmp_path, "NORTH", site_case_column="id"))
    with pytest.raises(DataError, match=r"no row names a case .*called c1, .*the table has 61, 70"):
        list_center(center_of(tmp_path, "NORTH", site_case_column="age"))


def test_a_table_that_contradicts_itself_or_is_none_is_refused(tmp_path: Path) -> None:
    path = data_set(tmp_path, "name,site\nc1,N\nc1,S\n")
    with pytest.raises(DataError, match="c1 is listed with two sites, 'N' and 'S'"):
        list_center(center_of(tmp_path, "N"))
    for text, words in (
        ("name,site\n", "has no rows"),
        ("a,a\n1,2\n", "column 'a' is there twice"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_table(path)
    with pytest.raises(DataError, match=r"none\.csv: cannot be read \(No such file"):
        read_table(tmp_path / "none.csv")


def test_tables_as_excel_saves_them(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    rows = [{"id": "c1", "site": "Zürich"}]
    path.write_bytes("id\tsite\r\nc1\tZürich\r\n".encode("utf-16"))
    assert read_table(path) == rows
    path.write_bytes("id;site\r\nc1;Zürich\r\n".encode("utf-8-sig"))
    assert read_table(path) == rows
    path.write_bytes("id;site\r\nc1;Zürich\r\n".encode("cp1252"))
    with pytest.raises(
        DataError, match=r'no text in UTF-8 .*save it again, in Excel as "CSV UTF-8"'
    ):
        read_table(path)


def test_an_excel_table_is_read(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="writes the table of this test")
    data_set(tmp_path)
    book = openpyxl.Workbook()
    for row in (("id", "site", "year"), ("c1", "NORTH", 2019.0), ("c2", 7, None)):
        book.active.append(row)
    path = tmp_path / "metadata.xlsx"
    book.save(path)
    assert read_table(path)[1] == {"id": "c2", "site": "7", "year": ""}
    assert read_table(path)[0]["year"] == "2019"
    assert ids(center_of(tmp_path, "7", sites=path)) == ["c2"]
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"metadata\.xlsx: is no \.xlsx table"):
        read_table(path)


def test_centers_toml_splits_a_data_set(tmp_path: Path) -> None:
    data_set(tmp_path / "d")
    (tmp_path / "d" / "sites.csv").rename(tmp_path / "sites.csv")
    tables = [
        f'[centers.{site}]\nreader = "folder"\npath = "d"\nsites = "sites.csv"\nsite = "{site}"\n'
        for site in ("NORTH", "SOUTH")
    ]
    (tmp_path / "centers.toml").write_text("".join(tables))
    centers = load_centers(tmp_path / "centers.toml")
    assert {name: ids(center) for name, center in centers.items()} == {
        "NORTH": ["c1", "c3"],
        "SOUTH": ["c2"],
    }
