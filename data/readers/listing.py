"""What lies in a data set's folders: images, labels, their pairs, and what is left out and why.

Links are followed. Nothing that could be an image or a label is skipped without a word: it is a
case, or a case with a problem, or it is left out with its reason.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data.case import Center, DataError
from data.readers.files import VOLUME_SUFFIXES, CaseFiles, patient_of, volume_stem

EXCLUDED, WITHDRAWN = "is listed under exclude", "was withdrawn by its publisher"
OTHER_SITES = "gives to other sites"
EXPECTED_REASONS = (EXCLUDED, WITHDRAWN, OTHER_SITES)  # beginnings; not worth a warning
PAIR_SUFFIXES = (".hdr", ".img", ".img.gz")
# What is found next to images and is none: documents, and the voxels of .mhd and .nhdr headers.
DOCUMENT_SUFFIXES = (
    *(".txt", ".md", ".pdf", ".json", ".csv", ".tsv", ".xlsx", ".xls", ".xml", ".html", ".toml"),
    *(".yaml", ".yml", ".log", ".sh", ".py", ".ini", ".db", ".docx", ".pptx", ".bib", ".cff"),
)
DATA_SUFFIXES = (".raw", ".zraw", ".raw.gz", ".raw.bz2", ".bin")
LOOSE_SLICES = (
    "DICOM slices directly in it; put each series into a folder of its own, named as the case is, "
    'and read it with reader = "folder"'
)
SLICE_SUFFIXES = (".dcm", ".ima", ".dicom")
DICOM_INDEX = "dicomdir"  # DICOM too, but no slice
PREAMBLE, MAGIC = 128, b"DICM"
NO_FORMAT = f"is no format that is read here ({', '.join(VOLUME_SUFFIXES)}, DICOM); convert it"


@dataclass(frozen=True)
class Listing:
    """A center's files. `images`, `labels`: how many were found. `cases`: what is used or refused.

    `left_out`: (path, reason) of everything else that could be an image or a label.
    """

    images: int
    labels: int
    cases: tuple[CaseFiles, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def paired(self) -> int:
        """Cases that have an image and a label and can be read as far as their names tell."""
        return sum(case.label is not None and case.problem is None for case in self.cases)


@dataclass
class Found:
    """The files of one kind, images or labels, by case id (composed Unicode).

    `spelled`: the case id as the files' names have it. `problems`: why a case's file cannot be
    read. `empty`: (path, reason) of folders without a file, a problem only where the other kind
    knows the case. `left_out`: (path, reason).
    """

    paths: dict[str, list[Path]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    empty: dict[str, tuple[str, str]] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)

    def add(self, case_id: str, path: Path) -> None:
        """One more file; the same file reached by two ways (links) counts once."""
        known = self.paths.setdefault(normal(case_id), [])
        self.spelled.setdefault(normal(case_id), case_id)
        if all(path.resolve() != other.resolve() for other in known):
            known.append(path)

    @property
    def count(self) -> int:
        """Files found, with those that cannot be read."""
        return sum(map(len, self.paths.values())) + len(self.problems.keys() - self.paths.keys())


def normal(name: str) -> str:
    """The name in composed Unicode (NFC): macOS stores umlauts decomposed."""
    return unicodedata.normalize("NFC", name)


def list_folder(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files. Raises `DataError`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path in the centers file")
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error


def walk(folder: Path) -> Iterator[Path]:
    """Files at or below a folder, sorted, without hidden ones; links are followed, loops are not.

    Broken links are among them. Raises `DataError` where a folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; correct the path in the centers file")
    seen: set[str] = set()

    def stop(error: OSError) -> None:
        raise _unreadable(error) from error

    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = sorted(n for n in folders if not n.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: cannot be listed ({error.strerror}); correct its rights")


def is_slice(path: Path) -> bool:
    """Whether a file is a DICOM slice, by its suffix or, whatever its name, by its first bytes."""
    lower = path.name.lower()
    if lower.startswith(".") or lower == DICOM_INDEX or not path.is_file():
        return False
    if volume_stem(path) is not None or lower.endswith((*DOCUMENT_SUFFIXES, *DATA_SUFFIXES)):
        return False
    if path.suffix.lower() in SLICE_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False


def add_file(found: Found, path: Path, suffix: str = "") -> None:
    """Sort one file into `found`; the case is its name without `suffix`.

    Raises `DataError` where the name is no text.
    """
    name = path.name
    if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
        raise DataError(f"{path.parent}: the name {name!a} is no valid UTF-8; rename the file")
    stem, lower = volume_stem(path), name.lower()
    pair = next((name[: -len(end)] for end in PAIR_SUFFIXES if lower.endswith(end)), None)
    if not path.exists():
        case_id = normal(_cut(stem if stem is not None else name, suffix) or name)
        target = os.readlink(path) if path.is_symlink() else "gone"
        found.problems[case_id] = (
            f"{path}: is a link to {target}, which does not exist; restore the file or the link"
        )
    elif pair is not None:
        case_id = normal(_cut(pair, suffix) or pair)
        found.problems[case_id] = (
            f"{path}: is one half of a .hdr/.img pair, an old format that leaves the orientation "
            "open; convert it to .nii.gz"
        )
    elif stem:
        cut = _cut(stem, suffix)
        if cut is None:
            found.left_out.append((str(path), f"has a name that does not end in {suffix!r}"))
        else:
            found.add(cut, path)
    elif not lower.endswith((*DOCUMENT_SUFFIXES, *DATA_SUFFIXES)) and (
        "." in name or _is_binary(path)
    ):
        found.left_out.append((str(path), NO_FORMAT))


def _is_binary(path: Path) -> bool:
    """Whether a file without a suffix is no text, as README and LICENSE are."""
    try:
        with path.open("rb") as stream:
            return b"\0" in stream.read(1024)
    except OSError:
        return True


def _cut(stem: str, suffix: str) -> str | None:
    """The stem without the suffix; None where it does not end in it, in either Unicode form."""
    if not normal(stem).endswith(normal(suffix)):
        return None
    if stem.endswith(suffix):
        return stem.removesuffix(suffix)
    return normal(stem).removesuffix(normal(suffix))


def scan_files(folder: Path) -> Found:
    """The volumes that lie directly in a folder. Raises `DataError`."""
    found, slices = Found(), 0
    for path in list_folder(folder):
        if path.is_dir():
            inside = sum(volume_stem(file) is not None or is_slice(file) for file in walk(path))
            if inside:
                reason = f"is a folder with {inside} image files; this layout has no folders here"
                found.left_out.append((str(path), reason))
        elif is_slice(path):
            slices += 1
        else:
            add_file(found, path)
    if slices:
        found.left_out.append((str(folder), f"holds {slices} {LOOSE_SLICES}"))
    return found


def scan_below(folder: Path) -> Found:
    """The volumes at or below a folder; DICOM slices are not looked at. Raises `DataError`."""
    found = Found()
    for path in walk(folder):
        if not is_slice(path):
            add_file(found, path)
    return found


def pair(center: Center, images: Found, labels: Found) -> Listing:
    """One case for each name that either knows; what does not pair up carries its problem.

    Raises `DataError` where `exclude` names no case.
    """
    known = _names(images) | _names(labels)
    check_exclude(center, known | images.empty.keys() | labels.empty.keys())
    left_out = _left_out(images, labels, known)
    cases = []
    for case_id in sorted(known):
        if case_id in map(normal, center.exclude):
            left_out.append((case_id, EXCLUDED))
            continue
        own_images, own_labels = images.paths.get(case_id, []), labels.paths.get(case_id, [])
        image = own_images[0] if own_images else center.path / case_id
        label = own_labels[0] if own_labels else None
        problem = _problem(case_id, images, labels)
        patient = patient_of(case_id, center)
        spelled = images.spelled.get(case_id, case_id)
        cases.append(CaseFiles(spelled, image, label, patient, problem))
    return Listing(images.count, labels.count, tuple(cases), tuple(left_out))


def _names(found: Found) -> set[str]:
    return found.paths.keys() | found.problems.keys()


def _problem(case_id: str, images: Found, labels: Found) -> str | None:
    """Why a case cannot be used, as far as its files' names tell, and what to do."""
    problem = None
    for found in (labels, images):
        own = found.paths.get(case_id, [])
        if case_id in found.problems:
            problem = found.problems[case_id]
        elif len(own) > 1:
            problem = f"{len(own)} files of one name ({names_of(own)}); keep one of them"
        elif not own and case_id in found.empty:
            problem = ": ".join(found.empty[case_id])
    if problem is None and case_id not in images.paths:
        problem = f"label {labels.paths[case_id][0]} has no image of the same name; add the image"
    return None if problem is None else f'{problem}, or list "{case_id}" under exclude'


def _left_out(images: Found, labels: Found, known: Collection[str]) -> list[tuple[str, str]]:
    """What neither kind uses: a label among the images is no image, but it is used."""
    used = {str(p) for found in (images, labels) for own in found.paths.values() for p in own}
    entries = dict(images.left_out) | dict(labels.left_out)
    for found in (images, labels):
        entries |= dict(found.empty[case_id] for case_id in found.empty.keys() - known)
    return [(path, reason) for path, reason in entries.items() if path not in used]


def check_exclude(center: Center, case_ids: Collection[str]) -> None:
    """A name under `exclude` that is no case is a typing error. Raises `DataError`."""
    unknown = [name for name in center.exclude if normal(name) not in case_ids]
    if unknown:
        raise DataError(
            f"{center.name}: exclude names {', '.join(unknown)}, which is no case of "
            f"{center.path}; correct the name or take it out"
        )


def names_of(paths: Iterable[Path]) -> str:
    """File names for a message: the folders too where the names alone are the same."""
    paths = list(paths)
    names = [path.name for path in paths]
    return ", ".join(names if len(set(names)) == len(names) else map(str, paths))
