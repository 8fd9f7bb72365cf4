"""Which call of the exporter the cases of results/NAME come from: `exports` in experiment.json.

Each entry names its `trainings`, by method, whose cases it has brought; it stays as long as the
folder has cases of one of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reproduce.analysis.paper_tables import ROW_METHODS
from reproduce.analysis.rows import ResultKey, Rows, same_cases

TRAININGS = "trainings"
Entry = Mapping[str, Any]  # of `exports`
Training = tuple[str, str, int]  # method, target, seed


def add_entry(exports: Sequence[Entry], entry: Entry, older: Rows, newer: Rows) -> list[Entry]:
    """The entries after an export: those with cases in the folder, and at last `entry`.

    `older`: what the folder had, `newer`: what is written. The new entry takes over what is added
    or replaced by other cases, and all that was of the same command and commit.
    """
    brought, replaced = _changes(older, newer)
    kept = []
    for before in _with_trainings(exports, older):
        same = all(before[name] == entry[name] for name in ("command", "commit"))
        found = _parse(before)
        if found is None:  # it does not say whose cases it has brought
            kept += [] if same else [before]
            continue
        left = found - replaced
        if same:
            brought |= left
        elif left:
            kept.append({**before, TRAININGS: _print(left)})
    return [*kept, {**entry, TRAININGS: _print(brought)}]


def _changes(older: Rows, newer: Rows) -> tuple[set[Training], set[Training]]:
    """The trainings with an evaluation that is new or has other cases; those with the latter."""
    brought: set[Training] = set()
    replaced: set[Training] = set()
    for key, cases in newer.evaluations.items():
        before = older.select(key)
        if before is None:
            brought.add(_training(key))
        elif not same_cases(key, before, cases):
            replaced.add(_training(key))
    return brought | replaced, replaced


def _with_trainings(exports: Sequence[Entry], rows: Rows) -> list[Entry]:
    """The entries; where older ones name no trainings, those that their command asked for.

    What a later one has asked for too is that one's: it has written it again.
    """
    found: list[Entry] = []
    later: set[Training] = set()
    for entry in reversed(exports):
        own = _parse(entry) if TRAININGS in entry else _asked_for(str(entry["command"]), rows)
        if own is not None:
            found.append({**entry, TRAININGS: _print(own - later)})
            later |= own
        else:
            found.append(entry)
    return found[::-1]


def _asked_for(command: str, rows: Rows) -> set[Training] | None:
    """The trainings in `rows` that a command asked for; None where it does not name its rows."""
    words = shlex.split(command)
    names, seeds = (_values(words, option) for option in ("--rows", "--seeds"))
    methods = {ROW_METHODS.get(name) for name in names}
    if not names or not seeds or None in methods:
        return None
    targets = _values(words, "--targets") or rows.centers
    return {
        training
        for training in map(_training, rows.evaluations)
        if training[0] in methods and training[1] in targets and str(training[2]) in seeds
    }


def _values(words: Sequence[str], option: str) -> list[str]:
    """What follows an option, up to the next one."""
    found: list[str] = []
    for word in words[words.index(option) + 1 :] if option in words else ():
        if word.startswith("--"):
            break
        found.append(word)
    return found


def _training(key: ResultKey) -> Training:
    return (key.method, key.target, key.seed)


def _print(trainings: Iterable[Training]) -> dict[str, list[str]]:
    """Method -> "target, seed" of each of its trainings."""
    printed: dict[str, list[str]] = {}
    for method, target, seed in sorted(trainings):
        printed.setdefault(method, []).append(f"{target}, seed {seed}")
    return printed


def _parse(entry: Entry) -> set[Training] | None:
    """What `_print` wrote; None where an entry names no trainings."""
    if TRAININGS not in entry:
        return None
    found = set()
    for method, places in entry[TRAININGS].items():
        for place in places:
            target, _, seed = place.rpartition(", seed ")
            found.add((method, target, int(seed)))
    return found
