"""One bad case never ends the work on the others: whatever it raises becomes its own problem."""

from __future__ import annotations

from data.case import DataError
from utils.errors import stops_all


def case_error(name: str, error: Exception) -> DataError:
    """The problems of the case `name` ("center/case") from any exception that reading it raised.

    Raises the exception itself where all other cases would meet it too, as on a full disk.
    """
    if isinstance(error, DataError):
        return error
    if stops_all(error):
        raise error
    if isinstance(error, OSError):
        place = f"{error.filename} " if error.filename is not None else ""
        reason = error.strerror or str(error) or type(error).__name__
        return DataError(f"{name}: {place}cannot be read or written ({reason}); restore it")
    if isinstance(error, MemoryError):
        return DataError(f"{name}: does not fit into memory ({error}); use fewer --workers")
    reason = " ".join(str(error).split())
    return DataError(
        f"{name}: cannot be read ({type(error).__name__}: {reason}); look at its files, or list "
        "the case under exclude"
    )
