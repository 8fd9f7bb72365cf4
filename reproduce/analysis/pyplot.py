"""matplotlib for pictures that go to files, imported by what draws and by nothing else."""

from __future__ import annotations

from types import ModuleType


def import_pyplot() -> ModuleType:
    """matplotlib.pyplot, drawing to files alone; its import takes half a second."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
