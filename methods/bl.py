"""BL, the baseline (Table V): Eq. 2 on one view of the augmented image, nothing else.

It overrides nothing. Table VI's BigAug row (Zhang et al., 2020) is the same run: the two are equal
in all twelve numbers in the paper. The nine transforms of BigAug's own paper are `bigaug`.
"""

from __future__ import annotations

from methods.base import Method


class Baseline(Method):
    """Row BL of Table V, row BigAug of Table VI."""

    takes_second_channel = True
    table5 = "BL"
    table6 = "BigAug"
    table6_note = "Table V's BL, the same run; the two are identical in all 12 numbers in the paper"
