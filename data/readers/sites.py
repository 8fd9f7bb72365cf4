"""One data set split into centers by a table: a row for each case, with the site it comes from."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data.case import Center, DataError
from data.readers.files import CaseFiles, volume_stem
from data.readers.listing import OTHER_SITES, Listing, normal

CHANNEL = "_0000"
SHOWN = 8  # names in a message

Rows = list[dict[str, str]]


def select_site(center: Center, listing: Listing) -> Listing:
    """Only the cases of the center's `site`; the others are left out, counted by site.

    A row counts for a case id, or for all scans of a patient. Raises `DataError` where the table
    cannot be read, lacks a column, names no case or no such site, or gives a case two sites.
    """
    assert center.sites is not None
    rows = read_table(center.sites)
    column = _find_column(center.sites, rows, center.site_column, "site_column")
    site_of = _sites(center, listing, rows, column)
    known = Counter(row[column] for row in rows)
    wrong = [name for name in center.site if name not in known]
    if wrong:
        raise DataError(
            f"{center.sites}: column {column!r} holds no site {', '.join(map(repr, wrong))}; "
            f"choose from {_counted(known)}"
        )
    cases, elsewhere = [], Counter[str]()
    left_out = list(listing.left_out)
    for case in listing.cases:
        site = site_of.get(_names(case)[0], site_of.get(case.patient_id))
        if site in center.site:
            cases.append(case)
        elif site is None:
            left_out.append((case.case_id, f"is in no row of {center.sites}"))
        else:
            elsewhere[site] += 1
    if elsewhere:
        reason = f"{OTHER_SITES} {elsewhere.total()} cases: {_counted(elsewhere)}"
        left_out.append((str(center.sites), reason))
    there = {name for case in listing.cases for name in _names(case)}
    absent = [name for name, site in site_of.items() if site in center.site and name not in there]
    if absent:
        reason = f"names {len(absent)} cases of this site that have no files ({_some(absent)})"
        left_out.append((str(center.sites), reason))
    return replace(listing, cases=tuple(cases), left_out=tuple(left_out))


def _sites(center: Center, listing: Listing, rows: Rows, column: str) -> dict[str, str]:
    """Case or patient -> site, by the case column or the one that knows most of the cases."""
    assert center.sites is not None
    names = {name for case in listing.cases for name in _names(case)}
    if center.site_case_column is not None:
        case_column = _find_column(center.sites, rows, center.site_case_column, "site_case_column")
    else:
        columns = [name for name in rows[0] if name != column]
        case_column = max(
            columns, key=lambda name: sum(_key(row[name]) in names for row in rows), default=column
        )
    if not any(_key(row[case_column]) in names for row in rows):
        raise DataError(
            f"{center.sites}: no row names a case of {center.path} (cases are called "
            f"{_some(sorted(names))}, the table has {_some([row[case_column] for row in rows])} in "
            f"its column {case_column!r}); set site_case_column to one of {_some(list(rows[0]))}"
        )
    site_of: dict[str, str] = {}
    for row in rows:
        name = _key(row[case_column])
        if name and site_of.setdefault(name, row[column]) != row[column]:
            raise DataError(
                f"{center.sites}: {name} is listed with two sites, {site_of[name]!r} and "
                f"{row[column]!r}; correct the table"
            )
    return site_of


def _names(case: CaseFiles) -> tuple[str, str]:
    return normal(case.case_id), case.patient_id


def _key(text: str) -> str:
    """A case's name as the table gives it: with or without suffix and channel number."""
    stem = volume_stem(Path(text)) if text else None
    return (text if stem is None else stem).removesuffix(CHANNEL)


def _find_column(path: Path, rows: Rows, name: str, key: str) -> str:
    """The column of that name, in any case. Raises `DataError` with the columns there are."""
    for column in rows[0]:
        if column.casefold().strip() == name.casefold().strip():
            return column
    raise DataError(
        f"{path}: has no column {name!r}; set {key} to one of {', '.join(map(repr, rows[0]))}"
    )


def read_table(path: Path) -> Rows:
    """The rows of a .csv (comma, semicolon or tab) or .xlsx table, as text, by column.

    Raises `DataError` where it cannot be read or has no rows.
    """
    try:
        if path.suffix.lower() == ".xlsx":
            lines = _read_xlsx(path)
        else:
            text = _decode(path.read_bytes(), path)
            first = text.splitlines()[0] if text.strip() else ""
            delimiter = max(",;\t", key=first.count)
            lines = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct `sites`") from error
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table ({error}); correct `sites`") from error
    lines = [[normal(cell.strip()) for cell in cells] for cells in lines]
    lines = [cells for cells in lines if any(cells)]
    if len(lines) < 2:
        raise DataError(f"{path}: has no rows below its column names; correct the table")
    head, *body = lines
    repeated = [name for name, count in Counter(head).items() if name and count > 1]
    if repeated:
        raise DataError(f"{path}: column {repeated[0]!r} is there twice; rename one of them")
    return [dict(itertools.zip_longest(head, cells[: len(head)], fillvalue="")) for cells in body]


def _decode(content: bytes, path: Path) -> str:
    """UTF-8 or, as Excel's "Unicode text" has it, UTF-16 with its mark. Raises `DataError`."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start}); save it again, "
            'in Excel as "CSV UTF-8" or as .xlsx'
        ) from error


def _read_xlsx(path: Path) -> list[list[str]]:
    """The cells of the first sheet as text; whole numbers without a decimal point."""
    try:
        import openpyxl  # optional: only for data sets whose table is an Excel file
    except ImportError as error:
        raise DataError(
            f"{path}: an .xlsx table needs openpyxl; run `pip install openpyxl`, or save the table "
            "as .csv"
        ) from error
    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
        return [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except (ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no .xlsx table ({error}); restore the file") from error


def _text(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell)


def _counted(sites: Mapping[str, int]) -> str:
    ordered = sorted(sites.items(), key=lambda pair: -pair[1])
    return _some([f"{name or '(empty)'} ({count})" for name, count in ordered])


def _some(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
