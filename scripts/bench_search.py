"""What a search costs beside a plain sweep of the same runs.

    python scripts/bench_search.py                      the 24 runs of docs/search.md, 2 at a time
    python scripts/bench_search.py --rounds 5           the median of five rounds
    PYTHONPATH=/opt/optuna4 python scripts/bench_search.py      with another Optuna

A grid of the lrs is searched, and the same lrs are swept over; the two take turns at who is first.
What the search does more is to import Optuna, to write a study and to ask and tell it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

TRAIN = Path(__file__).parent.parent / "train.py"
LINE = ("data=digits", "model=linear", "trainer.max_steps=50")


def measure(line: list[str], runs: int) -> tuple[float, float]:
    """Run a sweep or a search; return its seconds in wall time and of all CPUs.

    Raises:
        SystemExit: it has failed, or made another number of runs.
    """
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, str(TRAIN), "-m", *line, "hydra.sweep.dir=sweep"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        made = len([*Path(folder).glob("sweep/**/result.json")])
    if done.returncode or made != runs:
        sys.exit(f"{' '.join(command)}: {made} of {runs} runs\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="What a search costs beside a plain sweep.")
    parser.add_argument("line", nargs="*", default=LINE, help="overrides, as after train.py -m")
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n-jobs", type=int, default=2)
    args = parser.parse_args()
    lrs = ",".join(f"{10 ** (-4 + 3 * k / args.runs):.3g}" for k in range(args.runs))
    common = [*args.line, f"n_jobs={args.n_jobs}"]
    ways = {
        "sweep": [*common, f"optimizer.lr={lrs}"],
        "search": [*common, f"optimizer.lr=choice({lrs})", f"search.trials={args.runs}",
                   "search.sampler=grid"],
    }  # fmt: skip
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way in sorted(ways, reverse=bool(number % 2)):
            taken[way].append(measure(ways[way], args.runs))
    wall = {way: median(one[0] for one in found) for way, found in taken.items()}
    cpu = {way: median(one[1] for one in found) for way, found in taken.items()}
    print(f"{args.runs} runs of {' '.join(args.line)}, {args.n_jobs} at a time")
    print(f"Optuna {version('optuna')}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; "
          f"{args.rounds} rounds\n")  # fmt: skip
    print("| | seconds | CPU seconds |")
    print("|---|---:|---:|")
    for way in ways:
        print(f"| {way} | {wall[way]:.1f} | {cpu[way]:.1f} |")
    more = [100 * (taken["search"] / taken["sweep"] - 1) for taken in (wall, cpu)]
    print(f"| more | {more[0]:+.1f} % | {more[1]:+.1f} % |")


if __name__ == "__main__":
    main()
