"""How long it takes from `python train.py` to the first training step.

    python scripts/bench_start.py               the median of five rounds
    python scripts/bench_start.py optimizer=muon data=digits

Beside it the time of `import torch, lightning.pytorch` alone, measured in turn. CPU is the time of
all threads, which says more than the wall time on a machine that is not idle.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TRAIN = Path(__file__).parent.parent / "train.py"
#: Ends the process; its exit code 0 says that it has come so far.
HERE = "sys.stdout.write(f'{sum(os.times()[:2])}'); sys.stdout.flush(); os._exit(0)"
IMPORTS = f"import os, sys, torch, lightning.pytorch; {HERE}"
CALLBACK = f"""
import os, sys
from lightning.pytorch import Callback


class FirstStep(Callback):
    def on_train_batch_start(self, *args):
        {HERE}
"""
CHOSEN = ("+callbacks.first_step._target_=first_step.FirstStep", "allow=first_step")


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return its seconds in wall time and of all CPUs.

    Raises:
        SystemExit: it has failed.
    """
    # what is installed is compiled: without this, a source tree would be again in each round
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return seconds, float(done.stdout.split()[-1])


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="How long a run takes to its first step.")
    parser.add_argument("line", nargs="*", help="overrides, as after train.py")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "first_step.py").write_text(CALLBACK, "utf-8")
        ways = {
            "`import torch, lightning.pytorch`": ["-c", IMPORTS],
            "to the first training step": [str(TRAIN), *args.line, *CHOSEN, "logger=tensorboard"],
        }
        found = [
            {way: measure(command, folder) for way, command in ways.items()}
            for _ in range(args.rounds + 1)
        ][1:]  # the first one may compile files, kernels or data
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"| {args.rounds} rounds, load {load:.1f} | wall (s) | CPU (s) |\n|---|---:|---:|")
    for way in ways:
        wall, cpu = (median(one[way][k] for one in found) for k in (0, 1))
        print(f"| {way} | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
