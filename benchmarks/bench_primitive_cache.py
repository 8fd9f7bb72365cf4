"""Training steps on crops of changing shapes, with oneDNN's cache as it is and as we set it.

    python benchmarks/bench_primitive_cache.py [--shapes 12] [--rounds 2] [--width 8]

The cache's size is read once a process, so each round starts a process for each size, in turn, with
one thread. A process makes one step for each shape three times; the CPU seconds of the last pass
count, when every shape has been seen. Medians over the rounds, the ratio of each round's pair, and
the process's largest memory. The losses must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from utils.arguments import Count
from utils.scripts import ArgumentParser

SIZES = {"onednn_default": "1024", "ours": "8192"}
PASSES = 3


def measure_here(count: int, width: int) -> dict[str, Any]:
    """In this process: seconds of the last pass, peak MiB, the losses."""
    import torch

    from models.backbone import ResidualEncoderDecoder

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = ResidualEncoderDecoder(width=width).eval()
    sides = itertools.product((8, 16, 24), (16, 24, 32, 40), (16, 24, 32))
    shapes = list(itertools.islice(sides, count))
    for _ in range(PASSES):
        started = time.process_time()
        losses = []
        for shape in shapes:
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(torch.ones(2, 1, *shape)).logits
            loss = logits.float().square().mean()
            loss.backward()
            network.zero_grad()
            losses.append(loss.item())
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": seconds, "peak": peak, "losses": losses}


def measure(shapes: int = 12, rounds: int = 2, width: int = 8) -> dict[str, float]:
    """Seconds of `shapes` steps and peaks with each size of the cache, a process each, in turn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SIZES}
    words = ["--in-this-process", "--shapes", str(shapes), "--width", str(width)]
    for _ in range(rounds):
        for name, size in SIZES.items():
            environment = {**os.environ, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": size}
            environment["OMP_NUM_THREADS"] = "1"
            command = [sys.executable, __file__, *words]
            done = subprocess.run(command, env=environment, capture_output=True, check=True)
            found[name].append(json.loads(done.stdout))
    before, after = found.values()
    assert all(one["losses"] == before[0]["losses"] for one in (*before, *after))
    pairs = zip(before, after, strict=True)
    return {
        **{f"{name}_s": median(one["seconds"] for one in ones) for name, ones in found.items()},
        **{f"{name}_mib": median(one["peak"] for one in ones) for name, ones in found.items()},
        "onednn_default_ratio": median(a["seconds"] / b["seconds"] for a, b in pairs),
    }


def main() -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shapes", type=Count, default=12)
    add("--rounds", type=Count, default=2)
    add("--width", type=Count, default=8)
    add("--in-this-process", action="store_true", help="one measurement, printed as JSON")
    args = parser.parse_args()
    if args.in_this_process:
        print(json.dumps(measure_here(args.shapes, args.width)))
        return
    found = measure(args.shapes, args.rounds, args.width)
    for name in SIZES:
        print(
            f"{name:14} {found[f'{name}_s']:7.2f} s for {args.shapes} steps, "
            f"{found[f'{name}_mib']:.0f} MiB"
        )
    print(f"ours is {found['onednn_default_ratio']:.2f} x as fast; losses equal")


if __name__ == "__main__":
    main()
