"""The pinned reference of mCE: which clips of `events` test the embedded `m5` has right under every corruption.

    python experiments/benchmarks/corruption_reference.py

writes `robust/corruptions/reference-m5-events.json`: for each corruption its values and, for each severity, a bit for
each clip (hexadecimal, the first clip first). To be made anew whenever corruptions, `events` or the weights change;
`tests/robust/test_corruption_table.py` tells when.
"""

from __future__ import annotations

import json
from pathlib import Path

import robust
from robust.atomic import write_atomically
from robust.corruption_run import noise
from robust.corruptions import CORRUPTIONS, SEVERITIES
from robust.corruptions.rendering import VERSION
from robust.evaluation.corruption_reference import PINNED, to_hex
from robust.memory import keep_freed_memory

MODEL = "m5"


def main() -> None:
    """Runs the reference and writes the file."""
    keep_freed_memory()
    run = noise(robust.load_victim(MODEL), robust.load_data("events", split="test"))
    right = {
        (name, severity): to_hex(part.sort_values("clip")["correct"].to_numpy(dtype=bool))
        for (name, severity), part in run.records.groupby(["corruption", "severity"], sort=False)
    }
    ids = run.records["id"].drop_duplicates()
    heard = [one for one in CORRUPTIONS.values() if one.modality == "audio"]
    table = {
        "model": MODEL,
        "weights": run.summary["weights"],
        "data": "the test split of events (400 clips, seed 0)",
        "ids": [ids.min(), ids.max()],
        "seed": run.summary["seed"],
        "version": VERSION,
        "cells": {
            "clean": {"values": [], "right": [right["clean", 0]]},
            **{
                one.name: {"values": list(one.values), "right": [right[one.name, severity] for severity in SEVERITIES]}
                for one in heard
            },
        },
    }
    place = Path(__file__).resolve().parents[2] / "robust" / "corruptions" / PINNED
    write_atomically(place, (json.dumps(table, indent=1) + "\n").encode())
    summary = run.summary
    print(f"{place}: {len(ids)} clips, mean error {summary['mean_error']:.3f}, {summary['seconds']:.0f} s")


if __name__ == "__main__":
    main()
