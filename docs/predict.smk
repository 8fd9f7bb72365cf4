# Predict a long list of CTs on a cluster: a job for every `per_job` scans, each one predict.py.
# scans.csv as predict.py takes it (a column "path", paths absolute). See docs/scaling.md.
#
#   snakemake --snakefile docs/predict.smk --executor slurm --jobs 64 --profile my_cluster \
#       --config scans=scans.csv out=OUT checkpoints=checkpoints per_job=100
import csv
import shlex
import sys
from pathlib import Path

ROOT = Path(workflow.basedir).parent
SCANS, OUT = Path(config["scans"]).resolve(), Path(config["out"]).resolve()
PER_JOB = int(config.get("per_job", 100))
OPTIONS = shlex.split(str(config.get("options", "")))  # more of predict.py's
PREDICT = [sys.executable, str(ROOT / "predict.py")]
CHECKPOINTS = str(Path(config["checkpoints"]).resolve())

with SCANS.open(newline="", encoding="utf-8") as handle:
    ROWS = list(csv.DictReader(handle))
if not ROWS or "path" not in ROWS[0]:
    raise ValueError(f"{SCANS}: give a CSV file with a column 'path' and a line for each scan")
PARTS = {f"{n:05d}": ROWS[i : i + PER_JOB] for n, i in enumerate(range(0, len(ROWS), PER_JOB))}


rule all:
    input:
        expand(f"{OUT}/{{part}}/done", part=PARTS),


rule list:
    output:
        f"{OUT}/{{part}}.csv",
    localrule: True
    run:
        with open(output[0], "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, ROWS[0])
            writer.writeheader()
            writer.writerows(PARTS[wildcards.part])


rule predict:
    input:
        f"{OUT}/{{part}}.csv",
    output:
        touch(f"{OUT}/{{part}}/done"),
    resources:
        gpu=int(str(config.get("device", "cuda")).startswith("cuda")),
    params:
        words=lambda wildcards, input: shlex.join(
            [
                *(*PREDICT, input[0], "-o", f"{OUT}/{wildcards.part}/scans"),
                *("--checkpoints", CHECKPOINTS, "--device", str(config.get("device", "cuda"))),
                *OPTIONS,
            ]
        ),
    shell:
        "{params.words}"
