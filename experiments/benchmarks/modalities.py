"""What a step of PGD on both senses costs, over a bare forward pass and both input gradients.

    python experiments/benchmarks/modalities.py

Embedded audio-visual victims on `events`. Once as it is and once with freed memory kept (`robust.memory`), as the
command line does: in the first case the C library gives large buffers back to the system after every step.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a script beside its module

from speed import step_ratio

import robust
from robust.evaluation.engine import AlignedData
from robust.memory import keep_freed_memory
from robust.threats import threat_model

CASES = (("both", "linf"), ("both", "l2"), ("audio", "linf"), ("video", "linf"))
TRACED = ("av-mid", "av-late", "av-early")


def main() -> None:
    """Prints the table."""
    print("| victim | attacked | norm | memory | our step / bare step |\n|---|---|---|---|---|")
    for memory in ("as it is", "kept"):
        if memory == "kept" and not keep_freed_memory():
            print("this C library cannot be told to keep memory")
            return
        for name in TRACED:
            victim = robust.load_victim(name)
            data = AlignedData(robust.load_data("events", limit=32), victim.spec)
            batch = data.batch(range(len(data)))
            for parameter in victim.parameters():
                parameter.requires_grad_(False)
            for word, norm in CASES:
                balls = threat_model(victim, word, norm, 1e-4).balls
                ratio = step_ratio(victim, batch.inputs, batch.labels, balls)
                print(f"| {name} | {word} | {norm} | {memory} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
