"""The block of numbers in a page that a script of this folder writes."""

from __future__ import annotations

from pathlib import Path

from utils.files import write_text

END = "<!-- end of numbers -->"


def replace_block(page: str, block: str, script: str) -> str:
    """The page with other numbers of that script. Raises ValueError where it has no place for them.

    The place is between `<!-- numbers: python benchmarks/SCRIPT -->` and `<!-- end of numbers -->`.
    """
    mark = f"<!-- numbers: python benchmarks/{script} -->"
    before, begin, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {mark} ... {END}; add both lines")
    return f"{before}{mark}\n\n{block}\n\n{END}{after}"


def refresh(path: Path, block: str, script: str, *, check: bool) -> None:
    """Write the page with that block; `check`: write nothing, and exit with 1 where it differs."""
    page = path.read_text(encoding="utf-8")
    fresh = replace_block(page, block, script)
    if not check:
        write_text(path, fresh)
        print(path)
    elif fresh != page:
        raise SystemExit(f"{path}: its numbers are not those that were measured")
