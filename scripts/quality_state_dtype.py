"""What states in 16 and 8 bits cost in quality: the same runs, seed by seed, against float32.

    python scripts/quality_state_dtype.py --text shakespeare.txt

Every run is one process of `train.py` on one thread, as many at once as there are cores. Runs of
one seed differ in nothing but `optimizer.state_dtype`. The table has the mean difference of the
test loss (of char_lm: of the loss over the whole validation part), twice its standard error over
the seeds, and whether the first is within the second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.progress import track
from rich.table import Table

from lit_optim.runs.layout import RESULT

ROOT = Path(__file__).parents[1]
NARROW = ("bfloat16", "int8")


def loss(task: list[str], state_dtype: str, seed: int, steps: int) -> float:
    """The test loss of one run, or its last validation loss where there is no test.

    Raises:
        RuntimeError: the run failed, with its last lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = [*task, f"optimizer.state_dtype={state_dtype}", f"seed={seed}"]
        words += [f"trainer.max_steps={steps}", f"hydra.run.dir={run_dir}", "logger=none"]
        words += ["trainer.enable_progress_bar=false"]
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise RuntimeError("\n".join([" ".join(words), *done.stderr.splitlines()[-5:]]))
        result = json.loads((run_dir / RESULT).read_text("utf-8"))
        return float(result["test"].get("test/loss", result["final"]["val/loss"]))


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", help="of char_lm; without one only mnist1d is run")
    parser.add_argument("--optimizer", default="adamw", help="by name (%(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="1 to this (%(default)s)")
    parser.add_argument("--markdown", action="store_true", help="for the docs")
    args = parser.parse_args()
    tasks = {"mnist1d": [f"optimizer={args.optimizer}"]}
    if args.text:
        text = Path(args.text).resolve()
        tasks["char_lm"] = ["experiment=char_lm_nanogpt", f"data.path={text}"]
        tasks["char_lm"] += [f"optimizer={args.optimizer}"] * (args.optimizer != "adamw")
    asked = [
        (task, dtype, seed)
        for task in tasks
        for dtype in ("float32", *NARROW)
        for seed in range(1, args.seeds + 1)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = pool.map(lambda ask: loss(tasks[ask[0]], ask[1], ask[2], args.steps), asked)
        progress = track(runs, "runs", total=len(asked), console=Console(stderr=True))
        found = dict(zip(asked, progress, strict=True))
    head = ["task", "state_dtype", "loss", "minus float32", "2 standard errors", "within"]
    rows = []
    for task in tasks:
        wide = [found[task, "float32", seed] for seed in range(1, args.seeds + 1)]
        rows.append([task, "float32", f"{fmean(wide):.4f}", "", "", ""])
        for dtype in NARROW:
            narrow = [found[task, dtype, seed] for seed in range(1, args.seeds + 1)]
            gaps = [a - b for a, b in zip(narrow, wide, strict=True)]
            error = 2 * stdev(gaps) / len(gaps) ** 0.5
            row = [f"{fmean(narrow):.4f}", f"{fmean(gaps):+.4f}", f"{error:.4f}"]
            rows.append([task, dtype, *row, "yes" if abs(fmean(gaps)) <= error else "no"])
    if args.markdown:
        for row in [head, ["---"] * 2 + ["--:"] * 3 + ["---"], *rows]:
            print("| " + " | ".join(row) + " |")
        return
    table = Table(*head, title=f"{args.optimizer}, {args.steps} steps, {args.seeds} paired seeds")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
