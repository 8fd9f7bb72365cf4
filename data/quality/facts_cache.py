"""What the check remembers of a case that it has read: nothing is read twice while nothing changed.

An entry counts only for the same bytes of the case's files, the same settings of its center and the
same version of the code that reads and judges it: its name is made of all of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.case import Center, DataError
from data.prepare.cache import content_key, reading_rule
from data.prepare.one_case import case_error
from data.prepare.signature import from_text, to_text
from data.quality.survey import CaseFacts, Lesion, survey_case
from data.readers.files import CaseFiles
from utils.files import write_json

FOLDER = ".facts"
DATA = Path(__file__).resolve().parents[1]
CODE = ("case.py", "intensity.py", "roi.py", "prepare/*.py", "quality/*.py", "readers/*.py")


def facts_of(
    center: Center, files: CaseFiles, cache: Path | None, picture: Path
) -> CaseFacts | DataError:
    """The facts of one case, remembered or read, or why it is refused.

    `cache`: the folder of the prepared cases; None reads again. `picture`: where a picture of the
    case goes if it has a warning; that of an earlier check is removed if it has none.
    """
    name = f"{center.name}/{files.case_id}"
    picture.unlink(missing_ok=True)
    if files.problem is not None or cache is None:
        return survey_case(center, files, picture)
    try:
        key = content_key(
            files,
            cache,
            *(code_version(), name, files.patient_id, str(files.image), str(files.label)),
            reading_rule(center, files),
        )
    except Exception as error:  # of any library that reads a header: the case's own problem
        return case_error(name, error)
    memory = cache / FOLDER / f"{key}.json"
    drawn = memory.with_suffix(".png")
    facts = _load(memory)
    if facts is not None and (not facts.warnings or _copied(drawn, picture)):
        return facts
    found = survey_case(center, files, picture)
    if isinstance(found, CaseFacts):
        with suppress(OSError):  # a cache that cannot be written is no fault of the case
            write_json(memory, _to_plain(found))
            if picture.is_file():
                shutil.copyfile(picture, drawn)
    return found


@functools.cache
def code_version() -> str:
    """sha256 over the code that reads and judges a case: another version remembers nothing."""
    content = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in DATA.glob(pattern)):
        content.update(path.read_bytes())
    return content.hexdigest()


def _copied(source: Path, target: Path) -> bool:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        return False
    return True


def _to_plain(facts: CaseFacts) -> dict[str, Any]:
    return {
        **{name: value for name, value in vars(facts).items() if name != "signature"},
        "lesions": [asdict(lesion) for lesion in facts.lesions],
        "acquisition": dict(facts.acquisition),
        "signature": to_text(facts.signature),
    }


def _load(path: Path) -> CaseFacts | None:
    """What `_to_plain` gave; None where there is nothing, or nothing whole."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        lesions = [
            Lesion(lesion["volume_mm3"], tuple(lesion["centroid_mm"]), tuple(lesion["place"]))
            for lesion in plain["lesions"]
        ]
        signature = from_text(plain["center"], plain["case_id"], plain["signature"])
        return CaseFacts(
            **{
                **plain,
                "shape": tuple(plain["shape"]),
                "spacing": tuple(plain["spacing"]),
                "warnings": tuple(plain["warnings"]),
                "lesions": tuple(lesions),
                "signature": signature,
            }
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
