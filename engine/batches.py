"""How many inputs of a network go through it together on a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The most that a pass holds, for each input voxel and channel of the first level. Counted are 18 in
# fp32 and 15 in bf16 (tests/test_inference_batches.py), measured on a CPU about 32
# (benchmarks/bench_predict_memory.py); a convolution borrows memory too.
BYTES_PER_CHANNEL = 32
FREE_SHARE = 0.8  # of a GPU's free memory; its allocator leaves gaps
MAX_ELEMENTS = 2**31  # of one tensor: cuDNN counts them in 32 bits
WIDEST = 2  # times the width: the channels of the largest tensor, where the decoder joins two


@dataclass
class Batches:
    """What a network has shown of a GPU: it cannot take more than `voxels` in a batch."""

    voxels: float = math.inf


def batch_size(free_bytes: int, voxels: int, width: int, most_voxels: float = math.inf) -> int:
    """The largest of 1, 2, 4 and 8 inputs of `voxels` that a network of this width can take.

    `most_voxels`: more were too many before.

    >>> batch_size(20 * 2**30, voxels=64 * 224 * 224, width=32)
    4
    """
    by_memory = FREE_SHARE * free_bytes / (voxels * width * BYTES_PER_CHANNEL)
    by_index = (MAX_ELEMENTS - 1) // (voxels * width * WIDEST)
    most = min(by_memory, by_index, most_voxels / voxels)
    return next((size for size in (8, 4, 2) if size <= most), 1)
