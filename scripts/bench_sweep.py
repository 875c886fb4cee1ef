"""How long a sweep takes: new processes, forked ones, and Hydra's basic launcher in one process.

    python scripts/bench_sweep.py                       the 24 jobs of docs/sweeps.md
    python scripts/bench_sweep.py --rounds 3            the median of three rounds
    python scripts/bench_sweep.py optimizer=adamw,sgd seed=0,1 trainer.max_steps=50

Every way runs the same line, one after the other, in turn in each round. CPU is the time of all
processes of a sweep; a job of new processes spends most of its own on imports. The basic launcher
runs all jobs in the process of the sweep: nothing keeps one from changing the next.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

LINE = (
    "optimizer=adamw,sgd,lion", "scheduler=cosine_warmup,step", "seed=0,1,2,3",
    "trainer.max_steps=50",
)  # fmt: skip
#: The ways, and what each is typed with.
WAYS = {
    "a new process for each": ("launcher.fresh=true",),
    "a fork for each": (),
    "Hydra's basic launcher": ("hydra/launcher=basic",),
}
#: Those that run several jobs at a time.
PARALLEL = ("a new process for each", "a fork for each")
TRAIN = Path(__file__).parent.parent / "train.py"


def measure(line: list[str]) -> tuple[float, float]:
    """Run a sweep; return its seconds in wall time and of all CPUs.

    Raises:
        SystemExit: it has failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, str(TRAIN), "-m", *line, "hydra.sweep.dir=sweep"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="How long a sweep takes.")
    parser.add_argument("line", nargs="*", default=LINE, help="overrides, as after train.py -m")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--n-jobs", type=int, default=2, help="for the ways that can run several")
    args = parser.parse_args()
    cases = [(way, 1) for way in WAYS]
    if args.n_jobs > 1:
        cases += [(way, args.n_jobs) for way in PARALLEL]
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(args.rounds):
        for way, n_jobs in cases:
            more = [f"n_jobs={n_jobs}"] if n_jobs > 1 else []
            taken[way, n_jobs].append(measure([*args.line, *WAYS[way], *more]))
    seconds = {case: median(wall for wall, _ in found) for case, found in taken.items()}
    fresh, basic = seconds[PARALLEL[0], 1], seconds["Hydra's basic launcher", 1]
    print(f"python train.py -m {' '.join(args.line)}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, {args.rounds} rounds\n")
    print("| jobs | at a time | seconds | CPU seconds | of new processes | of the basic launcher |")
    print("|---|---:|---:|---:|---:|---:|")
    for (way, n_jobs), found in taken.items():
        wall, cpu = seconds[way, n_jobs], median(spent for _, spent in found)
        ratios = f"{wall / seconds.get((PARALLEL[0], n_jobs), fresh):.2f} | {wall / basic:.2f}"
        print(f"| {way} | {n_jobs} | {wall:.1f} | {cpu:.1f} | {ratios} |")


if __name__ == "__main__":
    main()
