import subprocess
import sys

import pytest

from utils.allocation import keep_freed_memory

# Page faults of 20 blocks of 48 MB, one after the other, each written: 12,288 pages a block.
COUNT_FAULTS = """
import resource
{setting}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = bytearray(b"1") * (48 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="not glibc: nothing is set")
def test_the_next_block_takes_the_pages_that_the_last_one_freed() -> None:
    setting = "from utils.allocation import keep_freed_memory; assert keep_freed_memory()"
    faults = [
        int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS.format(setting=text)]))
        for text in ("", setting)
    ]
    assert faults[1] < faults[0] / 4
