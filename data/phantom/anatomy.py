"""Which organs a phantom has, where they lie and how patients differ.

Positions are those of a supine adult's upper abdomen as an anatomy atlas shows it, in mm,
(z, y, x): z to the head with 0 at the pancreatic neck (first lumbar vertebra), y to the back with 0
in the middle of the body, x to the patient's left. They are typical values written down for this
project, no measurement of a person. A patient is these tables after a random smooth deformation,
scaling and jitter per organ (`patient`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Tissue(IntEnum):
    """What a point of the body is made of; `appearance` gives each its HU."""

    AIR = 0
    SKIN = 1
    FAT = 2
    VISCERAL_FAT = 3
    MUSCLE = 4
    LUNG = 5
    CORTICAL_BONE = 6
    MARROW = 7
    DISC = 8
    CANAL = 9
    CARTILAGE = 10
    LIVER = 11
    SPLEEN = 12
    RENAL_CORTEX = 13
    RENAL_MEDULLA = 14
    BOWEL_WALL = 15
    STOMACH_WALL = 16
    FLUID = 17
    CHYME = 18
    STOOL = 19
    ORAL_CONTRAST = 20
    GAS = 21
    ARTERY = 22
    PORTAL_VEIN = 23
    CAVA = 24
    HEPATIC_VEIN = 25
    BILE = 26
    CYST = 27
    HEART = 28
    ADRENAL = 29
    PANCREAS = 30
    DUCT = 31
    STENT = 32
    TABLE = 33


@dataclass(frozen=True)
class Build:
    """Range of patients that a center sees; every pair is a uniform range."""

    size: tuple[float, float] = (0.94, 1.06)  # of the standard patient, all lengths
    fat_mm: tuple[float, float] = (6.0, 22.0)  # subcutaneous fat in front and at the sides
    visceral: tuple[float, float] = (0.98, 1.06)  # widens the abdominal cavity, not the organs
    warp_mm: float = 4.0  # amplitude of the smooth deformation
    oral_contrast: float = 0.15  # probability that a bowel segment holds positive contrast


CAVITY_SEMI = (80.0, 124.0)  # mm (y, x): inner surface of the abdominal wall
WALL_MM = 11.0  # muscle between the cavity and the subcutaneous fat
SKIN_MM = 2.0
DOME_MM = 84.0  # height of the diaphragm's dome over z = 0
SPINE_Y = 47.0  # middle of the vertebral bodies
VERTEBRA_MM = 33.0  # one vertebra and its disc
RIB_STEP_MM = 27.0  # from rib to rib along the spine
RIB_DROP_MM = 190.0  # how far a rib falls from the spine to the front

# fmt: off
LIVER, SPLEEN = ((0, Tissue.LIVER),), ((0, Tissue.SPLEEN),)
KIDNEY = ((0, Tissue.RENAL_CORTEX), (6, Tissue.RENAL_MEDULLA))
SINUS, PELVIS = ((0, Tissue.VISCERAL_FAT),), ((0, Tissue.FLUID),)

# name: center, semi-axes (mm), layers, tilt (degrees), rough (mm), clip
SOLID_ORGANS: dict[str, tuple] = {
    "heart": ((108, -38, 28), (30, 42, 52), ((0, Tissue.HEART),), 0, 2, False),
    "liver_right": ((28, 2, -72), (92, 88, 68), LIVER, 6, 3, True),
    "liver_left": ((50, -44, 4), (38, 40, 72), LIVER, -8, 3, True),
    "caudate": ((42, 2, -24), (34, 20, 26), LIVER, 0, 2, True),
    "spleen": ((34, 38, 100), (50, 46, 30), SPLEEN, -12, 3, True),
    "kidney_left": ((-4, 44, 62), (52, 26, 26), KIDNEY, -10, 1.5, False),
    "kidney_right": ((-20, 44, -60), (52, 26, 26), KIDNEY, 10, 1.5, False),
    "sinus_left": ((-4, 38, 46), (22, 8, 15), SINUS, -10, 2, False),
    "sinus_right": ((-20, 38, -44), (22, 8, 15), SINUS, 10, 2, False),
    "pelvis_left": ((-6, 38, 46), (9, 4, 8), PELVIS, 0, 1, False),
    "pelvis_right": ((-22, 38, -44), (9, 4, 8), PELVIS, 0, 1, False),
}

BOWEL = ((0, Tissue.BOWEL_WALL), (2.5, Tissue.CHYME))
STOMACH = ((0, Tissue.STOMACH_WALL), (4, Tissue.CHYME))
COLON = ((0, Tissue.BOWEL_WALL), (2.2, Tissue.STOOL))

# name: control points (mm), radii (mm), layers, rough (mm), clip, range of gas (part of the depth)
HOLLOW_ORGANS: dict[str, tuple] = {
    "esophagus": (
        ((130, 22, 4), (90, 20, 10), (72, 6, 26)), (7, 7, 8),
        ((0, Tissue.STOMACH_WALL),), 0, False, (0, 0)),
    "stomach": (
        ((80, -2, 52), (62, -22, 64), (34, -44, 62), (6, -60, 44), (-8, -62, 14), (-4, -52, -14),
         (2, -42, -32)), (26, 31, 28, 22, 17, 14, 9), STOMACH, 3, True, (0, 0.4)),
    "colon_ascending": (
        ((-130, 20, -96), (-70, 8, -94), (-42, -14, -88), (-44, -50, -58)), (24, 23, 22, 19),
        COLON, 4, True, (0, 0.6)),
    "colon_transverse": (
        ((-44, -50, -58), (-62, -66, -22), (-58, -68, 20), (-30, -58, 66), (10, -18, 98)),
        (19, 18, 17, 18, 17), COLON, 4, True, (0, 0.6)),
    "colon_descending": (
        ((10, -18, 98), (-10, 20, 102), (-60, 24, 100), (-130, 18, 98)), (17, 15, 15, 15),
        COLON, 3, True, (0, 0.6)),
    "duodenum": (
        ((2, -42, -32), (4, -34, -46), (-8, -16, -58), (-28, -2, -59), (-46, 6, -50),
         (-56, 8, -28), (-56, 4, 0), (-50, -2, 24), (-34, -12, 36)),
        (10, 12, 12, 12, 12, 10, 7.5, 10, 11), BOWEL, 1.5, False, (-0.2, 0.25)),
}

# name: control points (mm), radii (mm), tissue
VESSELS: dict[str, tuple] = {
    "aorta": (((140, 22, 6), (40, 20, 7), (0, 20, 8), (-140, 22, 6)), (11, 10.5, 10, 8.5),
              "ARTERY"),
    "cava": (((110, 6, -24), (60, 12, -24), (0, 21, -22), (-140, 24, -18)), (11, 11, 11, 10),
             "CAVA"),
    "renal_vein_left": (((-6, 32, 42), (-8, 8, 12), (-8, 16, -16)), (4, 4.2, 4.5), "CAVA"),
    "renal_vein_right": (((-16, 34, -42), (-12, 22, -22)), (4, 5), "CAVA"),
    "renal_artery_left": (((-4, 36, 44), (-2, 22, 12)), (2.6, 3), "ARTERY"),
    "renal_artery_right": (((-16, 38, -42), (-4, 30, -12), (-2, 22, 6)), (2.6, 3, 3), "ARTERY"),
    "celiac": (((20, 12, 8), (24, -4, 8)), (4, 3.6), "ARTERY"),
    "hepatic_artery": (((24, -4, 8), (20, -14, -14), (34, -14, -38)), (2.8, 2.6, 2.2), "ARTERY"),
    "splenic_artery": (
        ((24, -4, 8), (30, -12, 24), (26, -2, 42), (38, 8, 58), (36, 22, 84)),
        (3, 2.8, 2.8, 2.6, 2.4), "ARTERY"),
    "sma": (((8, 12, 8), (2, -2, 7), (-20, -9, 4), (-130, -16, 2)), (4, 3.8, 3.6, 3), "ARTERY"),
    "smv_portal": (
        ((-130, -20, -14), (-40, -13, -13), (0, -12, -10), (14, -8, -20), (32, -4, -40),
         (44, -2, -58)), (5, 6, 6.8, 7, 6.5, 5), "PORTAL_VEIN"),
    "splenic_vein": (
        ((2, -11, -9), (8, -12, 12), (16, -2, 36), (24, 16, 58), (34, 32, 86)),
        (5, 4.6, 4.4, 4.2, 4), "PORTAL_VEIN"),
    "portal_right": (((44, -2, -58), (48, 6, -82), (40, 14, -102)), (5, 3.6, 2), "PORTAL_VEIN"),
    "portal_left": (((44, -2, -56), (56, -30, -40), (56, -50, -12)), (4, 3, 2), "PORTAL_VEIN"),
    "hepatic_right": (((76, 6, -30), (66, 16, -64), (44, 22, -104)), (5, 4, 2), "HEPATIC_VEIN"),
    "hepatic_middle": (((76, 2, -28), (62, -22, -54), (40, -44, -76)), (5, 3.6, 2),
                       "HEPATIC_VEIN"),
    "hepatic_left": (((76, 0, -22), (70, -30, -6), (58, -50, 18)), (5, 3.4, 2), "HEPATIC_VEIN"),
}

ADRENALS = (
    (((24, 36, 34), (34, 34, 30), (24, 42, 28)), (2.5, 3, 2.2)),
    (((22, 34, -28), (34, 32, -26), (24, 42, -24)), (2.5, 3, 2.2)),
)
GALLBLADDER = ((-4, -38, -58), (25, 15, 15))  # center, semi-axes (mm)
BILE_DUCT = (
    ((40, -8, -52), (22, -10, -40), (6, -4, -35), (-14, 4, -36), (-30, 4, -47)),
    (3, 3.2, 3, 3, 2.4),
)

# Pancreas: uncinate process, head (2), neck, body (2), tail (2); radius of the round cross-section.
PANCREAS_POINTS = (
    (-40, 0, -24), (-22, -4, -36), (-4, -13, -29), (6, -26, -10), (12, -27, 13), (18, -15, 36),
    (26, 4, 57), (34, 20, 76),
)
PANCREAS_RADII = (11, 15.5, 15, 10.5, 11.5, 12, 12, 8.5)
LOBULATION_MM = 1.4  # amplitude of the lobules on the pancreas's surface
DUCT_MM = 1.2  # radius of a healthy main duct

JEJUNUM_LOOPS = 16
JEJUNUM_BOX = ((-125, -62, -45), (-20, 14, 95))  # mm: the loops' axes stay about in here
JEJUNUM_MM = (8, 13)  # radius
MESENTERY_VESSELS = 50
# fmt: on
