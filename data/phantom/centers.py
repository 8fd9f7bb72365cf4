"""The synthetic centers: a few lines each that choose build, lesions, scanner and layout.

They differ as Table I's do. SYN-A stands where the paper has MSD (mixed lesions, stents, 0.7-7.5
mm), SYN-B where it has RENJI (PDA, thin slices), SYN-C where it has RMYY (PDA, thick slices, more
noise), SYN-N where it has NIH (no lesions). Names and images are synthetic: no hospital's data are
in them. To add a center, add an entry to `CENTERS`.

Going from one of these to another costs the baseline nothing, nor does a wrong calibration
(docs/results.md). SYN-D, SYN-E and SYN-F are A, B and C further `APART`, each in one thing that
cost it when they were chosen: D has cystic tumors where E and F have PDA, E is smoothed as by
a strong iterative reconstruction, F has the strong, coarse noise of a low dose. They were chosen
on phantoms of seed 7 by the baseline alone: by what it loses on an unseen center, and by how well
it does on a seen one. What they cost it on others, docs/results.md says.

Lesions measure 18-45 mm (about 3-45 ml) in the demo size and 10-48 mm (about 0.2-55 ml) in the full
size; the pancreas with its lesion 50-130 ml.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from data.phantom.anatomy import Build
from data.phantom.appearance import Scanner
from data.phantom.lesion import LesionMix

Range = tuple[float, float]


@dataclass(frozen=True)
class Sampling:
    """Grid of one size: uniform ranges in mm, matrix (y, x), and fine voxels per voxel (y, x)."""

    spacing_mm: Range
    thickness_mm: Range
    matrix: tuple[int, int]
    height_mm: Range  # covered along z
    fine_xy: int
    fine_z_mm: float  # slices are averages of fine ones no thicker than this


@dataclass(frozen=True)
class Center:
    """A synthetic center."""

    layout: str  # key of `layouts.WRITERS`
    orientation: str  # of the files' axes, as in "LPS"
    build: Build
    scanner: Scanner
    lesions: LesionMix | None
    sizes: dict[str, Sampling]
    tumor_threshold: float | None = None  # written into centers.toml; None: the stage's own


def _sizes(demo: tuple[Range, Range], full: tuple[Range, Range]) -> dict[str, Sampling]:
    """Spacing and thickness of the demo size and of the full size (Table I)."""
    return {
        "demo": Sampling(*demo, (104, 136), (172, 196), 2, 2.5),
        "full": Sampling(*full, (512, 512), (200, 260), 1, 1.0),
    }


MIXED = (("PDA", 0.6), ("IPMN", 0.2), ("PNET", 0.2))
PDA_ONLY = (("PDA", 1.0),)
IPMN_ONLY = (("IPMN", 1.0),)

_LIKE_TABLE_I = {
    "SYN-A": Center(
        "msd", "RAS", Build(size=(0.92, 1.04), fat_mm=(8, 26), oral_contrast=0.25),
        Scanner((("portal", 1.0),), (7, 12), 0.7, 0.0, 0.9),
        LesionMix(MIXED, {"demo": (18, 42), "full": (10, 45)}, stent_odds=0.5),
        _sizes(((2.2, 2.5), (2.5, 5.0)), ((0.60, 0.97), (0.7, 7.5))),
    ),
    "SYN-B": Center(
        "nnunet_raw", "LPS", Build(size=(0.90, 1.0), fat_mm=(5, 16), oral_contrast=0.02),
        Scanner((("pancreatic", 1.0),), (9, 14), 0.5, 0.5, 0.6),
        LesionMix(PDA_ONLY, {"demo": (18, 42), "full": (10, 42)}),
        _sizes(((2.1, 2.35), (2.8, 3.2)), ((0.55, 0.88), (0.59, 1.25))),
    ),
    "SYN-C": Center(
        "folder_nrrd", "LAI", Build(size=(0.88, 1.0), fat_mm=(5, 18), oral_contrast=0.05),
        Scanner((("arterial", 0.6), ("portal", 0.4)), (12, 20), 0.9, 0.0, 1.3,
                scale=0.97, offset_hu=5),
        LesionMix(PDA_ONLY, {"demo": (20, 45), "full": (12, 48)}),
        _sizes(((2.1, 2.4), (4.0, 5.0)), ((0.54, 0.86), (1.5, 5.0))),
    ),
    "SYN-N": Center(
        "folder_nifti", "RPS", Build(size=(0.92, 1.06), fat_mm=(8, 26), oral_contrast=0.6),
        Scanner((("portal", 1.0),), (8, 13), 0.6, 0.2, 0.8), None,
        _sizes(((2.2, 2.5), (2.5, 4.0)), ((0.66, 0.98), (1.5, 2.5))),
    ),
}  # fmt: skip


def with_lesion_free(center: Center, share: float) -> Center:
    """The center with this share of cases without a lesion; those that keep one do not change.

    A center without lesions, and a share of 0, change nothing. Raises ValueError for a share
    outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share of lesion-free cases {share:g}: 0 or more, below 1")
    if center.lesions is None:
        return center
    return replace(center, lesions=replace(center.lesions, free_share=share))


_A, _B, _C = (_LIKE_TABLE_I[f"SYN-{letter}"] for letter in "ABC")
CENTERS = {
    **_LIKE_TABLE_I,
    "SYN-D": replace(_A, lesions=LesionMix(IPMN_ONLY, {"demo": (18, 42), "full": (10, 45)})),
    "SYN-E": replace(
        _B, scanner=replace(_B.scanner, noise_hu=(4, 7), kernel_mm=2.5, sharpen=0, grain_mm=1.5)
    ),
    "SYN-F": replace(_C, scanner=replace(_C.scanner, noise_hu=(16, 24), grain_mm=2.5)),
}
LIKE_TABLE_I = tuple(_LIKE_TABLE_I)
APART = ("SYN-D", "SYN-E", "SYN-F", "SYN-N")  # SYN-N has no lesions
