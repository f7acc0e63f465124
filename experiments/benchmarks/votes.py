"""What a vote under noise costs: `defenses.votes` beside a plain batched loop, turns taken.

    python experiments/benchmarks/votes.py --model ast --threads 1 --rounds 9
    python experiments/benchmarks/votes.py --model ast --threads 2 --rounds 9

The plain loop casts batches of 100 in float32 under no_grad, `victim({"audio": clip + sigma * torch.randn(...)})`, and
counts. Each of the two runs in a process of its own, since `robust certify` keeps freed memory with its process, which
a plain script does not (`plain, memory kept` is one that does). Both draw the same noise, so that counts can be held
against one another. The ratio is of wall time, the median over rounds with quartiles; `cpu` is the same of processor
time, which other work on the machine disturbs less.

With `--radius` it also says how many votes sequential stopping saves, and whether its decisions are those of all votes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

SUBJECTS = ("plain", "plain, memory kept", "ours")
BATCH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ast")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--data", default="events")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--votes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--radius", type=float, default=None)
    parser.add_argument("--clips", type=int, default=50, help="with --radius: clips that are decided")
    given = parser.parse_args()
    if given.radius is None:
        compare(given)
    else:
        stopping(given)


def compare(given: argparse.Namespace) -> None:
    """Prints a row for each subject."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for name in SUBJECTS:
        pipes[name], theirs = context.Pipe()
        workers.append(context.Process(target=serve, args=(name, given, theirs), daemon=True))
        workers[-1].start()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SUBJECTS}
    same = True
    for turn in range(given.rounds + 1):
        counts = {}
        for name, pipe in pipes.items():
            pipe.send(turn)
            counts[name], wall, cpu = pipe.recv()
            if turn:  # the first fills caches, and decides on the precision
                found[name].append((wall, cpu))
        same &= all(np.array_equal(one, counts["plain"]) for one in counts.values())
    for pipe in pipes.values():
        pipe.send(None)
    for worker in workers:
        worker.join()
    print(f"{given.model}, {given.votes} votes at sigma {given.sigma:g}, {given.threads} threads")
    print(f"{'':20} {'ms a vote':>9} {'wall / plain':>24} {'cpu / plain':>12}")
    wall, cpu = ({name: np.array(times)[:, kind] for name, times in found.items()} for kind in (0, 1))
    for name in SUBJECTS:
        low, middle, high = np.percentile(wall[name] / wall["plain"], [25, 50, 75])
        shown = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        ratio = np.median(cpu[name] / cpu["plain"])
        print(f"{name:20} {1000 * np.median(wall[name]) / given.votes:9.3f} {shown:>24} {ratio:12.2f}")
    print("counts are the same" if same else "COUNTS DIFFER")


def serve(name: str, given: argparse.Namespace, pipe: Connection) -> None:
    """A process that counts votes on the clip that it is told, and says how long that took."""
    import torch

    from attacks.gradients import frozen
    from defenses.votes import Voter
    from robust.memory import keep_freed_memory

    torch.set_num_threads(given.threads)
    if name != "plain":
        keep_freed_memory()
    victim, clips = subject(given, 8)

    def plain(clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        counts = torch.zeros(len(victim.spec.labels), dtype=torch.int64)
        with torch.no_grad():
            for first in range(0, given.votes, BATCH):
                noise = torch.randn(min(BATCH, given.votes - first), len(clip), generator=generator)
                found = victim({"audio": clip + given.sigma * noise}).argmax(dim=1)
                counts += torch.bincount(found, minlength=len(counts))
        return counts

    voter = Voter(lambda noisy: victim({"audio": noisy}), given.sigma)

    def ours(clip: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return voter.ballot(clip, generator).counts(given.votes, len(victim.spec.labels))

    work = ours if name == "ours" else plain
    with frozen(victim):
        while (turn := pipe.recv()) is not None:
            clip, generator = clips[turn % len(clips)], torch.Generator().manual_seed(turn)
            wall, cpu = time.perf_counter(), time.process_time()
            counts = work(clip, generator)
            pipe.send((counts.numpy(), time.perf_counter() - wall, time.process_time() - cpu))
    if name == "ours":
        print(f"cast in {voter.tally.way}; {voter.tally}", flush=True)


def subject(given: argparse.Namespace, count: int) -> tuple[Any, Any]:
    """The victim and (count, T) waveforms."""
    import robust
    from robust.evaluation.engine import AlignedData

    victim = robust.load_victim(given.model, weights=given.weights)
    data = AlignedData(robust.load_data(given.data, split="test", limit=count), victim.spec)
    return victim, data.batch(range(len(data))).inputs["audio"]


def stopping(given: argparse.Namespace) -> None:
    """Prints what sequential stopping saves, clip by clip decided twice on the same votes."""
    import torch

    from attacks.gradients import frozen
    from defenses.sequential import Sequential
    from defenses.smoothing import certify
    from defenses.votes import Voter

    torch.set_num_threads(given.threads)
    victim, clips = subject(given, given.clips)
    n0, alpha, classes = 100, 0.001, len(victim.spec.labels)
    test = Sequential(given.radius, given.sigma, given.votes, alpha)
    voter = Voter(lambda noisy: victim({"audio": noisy}), given.sigma)
    spent, fixed, early = [], [], []
    with frozen(victim):
        for number, clip in enumerate(clips):
            ballot = voter.ballot(clip, torch.Generator().manual_seed(number))
            first = ballot.counts(n0, classes)
            votes = ballot.cast(given.votes)
            told = certify(first, torch.bincount(votes, minlength=classes), given.sigma, alpha)
            fixed.append(told.radius >= given.radius)
            for look in test.looks:
                decision, _ = test.decide((votes[:look] == int(first.argmax())).numpy())
                if decision != "open":
                    break
            early.append(decision == "certified")
            spent.append(look)
    print(f"{given.model}, radius {given.radius:g} at sigma {given.sigma:g}: {sum(fixed)} of {len(clips)} certified")
    mean = float(np.mean(spent))
    print(f"votes    {mean:.0f} a clip instead of {given.votes}: {given.votes / mean:.1f} times less")
    print(f"         {(given.votes + n0) / (mean + n0):.1f} times less with the {n0} that choose the class")
    print(f"equal    {sum(a == b for a, b in zip(fixed, early, strict=True))} of {len(clips)} decisions")


if __name__ == "__main__":
    main()
