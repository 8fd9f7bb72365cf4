"""Stands for methods/external/launcher.py: notes its call, and leaves what nnU-Net would leave.

`stub.json` in the folder tells it to end with a status, in the task of that name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

DATA_SET = "Dataset001_sources"
VARIABLES = ("nnUNet_raw", "nnUNet_n_proc_DA", "nnUNet_compile")


def main() -> int:
    home, task, *words = Path(sys.argv[1]), *sys.argv[2:]
    there = sorted(path.name for path in home.rglob("*.nii.gz"))
    call: dict[str, object] = {"task": task, "words": words, "there": there}
    call |= {name: os.environ.get(name) for name in VARIABLES}
    with (home / "calls.jsonl").open("a") as stream:
        stream.write(json.dumps(call) + "\n")
    note = home / "stub.json"
    wanted = json.loads(note.read_text()) if note.is_file() else {}
    print(wanted.get("say", "nothing to say"), flush=True)
    if wanted.get("task") == task:
        return int(wanted["status"])
    if task == "plan":
        (home / "preprocessed" / DATA_SET).mkdir(parents=True)
        return 0
    trainer = json.loads((home / "settings.json").read_text())["trainer"]
    configuration, *folds = words
    for fold in folds:
        model = home / "results" / DATA_SET / f"{trainer}__Plans__{configuration}"
        (model / f"fold_{fold}").mkdir(parents=True)
        for name in ("plans.json", "dataset.json", f"fold_{fold}/checkpoint_final.pth"):
            (model / name).write_text(f"{configuration} {fold}")
        print("epoch ended: 1", flush=True)
        (home / f"{configuration}_fold{fold}.done").write_text("")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
