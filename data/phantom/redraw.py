"""A synthetic case drawn again from its folder's settings, as another center's where asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Case, DataError, Grid
from data.phantom.centers import CENTERS, Center, with_lesion_free
from data.phantom.generate import make_phantom
from data.phantom.make_centers import VERSION

SETTINGS = "phantom.json"  # beside centers.toml


@dataclass(frozen=True)
class DrawnCenters:
    """What the synthetic centers of a folder were drawn with."""

    size: str
    seed: int
    lesion_free: float = 0.0

    def center(self, name: str) -> Center:
        """The center as it was drawn. Raises KeyError for one that is not synthetic."""
        return with_lesion_free(CENTERS[name], self.lesion_free)

    def redraw(self, name: str, case_id: str, changed: Center | None = None) -> Case:
        """The case of a center, in memory; `changed`: the same patient drawn as this center's."""
        number = int(case_id.rpartition("_")[2]) - 1
        as_whose = self.center(name) if changed is None else changed
        phantom = make_phantom(name, number, self.size, self.seed, as_whose)
        z, y, x = phantom.image_hu.shape
        (sz, sy, sx), (oz, oy, ox) = phantom.spacing, phantom.origin
        grid = Grid((x, y, z), (sx, sy, sz), (ox, oy, oz), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        return Case(case_id, name, phantom.image_hu, phantom.label, phantom.spacing, grid)

    def without_lesion(self, name: str, case_id: str) -> Case:
        """A patient of a center, on its scanner, drawn without a lesion."""
        return self.redraw(name, case_id, replace(self.center(name), lesions=None))


def read_drawn(centers: Path) -> DrawnCenters | None:
    """How the synthetic centers that centers.toml lists were drawn; None where they are none.

    Raises DataError where another version of the generator drew them: it draws other voxels.
    """
    path = centers.parent / SETTINGS
    if not path.is_file():
        return None
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    if settings["version"] != VERSION:
        raise DataError(
            f"{path}: drawn by version {settings['version']} of the generator, this is {VERSION}; "
            "draw them again"
        )
    return DrawnCenters(settings["size"], settings["seed"], settings.get("lesion_free", 0.0))
