"""How much of its fair share of a busy machine a run gets: its steps per second beside other work.

    python scripts/bench_busy.py                                     all, in about six minutes
    python scripts/bench_busy.py --models cnn --situations "idle,8 busy" --seconds 3
    python scripts/bench_busy.py --results busy.json --models cnn    again, and with others

A run is alone, beside 2 and beside 8 processes that compute without pause, or has a quota of one
core (a control group; where none can be made, the affinity, which is said). Each is a new process,
which has started while the others ran; the clock runs from step 5 for some seconds.

- `ours` is `python train.py ...`.
- `torch's defaults` is the same with the threads of torch, which spin as libgomp's do by default.
- `one` and `all` threads, on the idle machine, say what a share of it is worth: with s of its cores
  a process is due what it reaches alone with k threads times min(1, s / k), for the better of k = 1
  and all; beside n others s is the number of cores divided by n + 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from lit_optim.system import usable_cpus

ROOT = Path(__file__).parent.parent
WARM = 5  # steps before the clock runs
CALLBACK = f"""
import json, os, sys, time
import torch
from lightning.pytorch import Callback


class Steps(Callback):
    def __init__(self, seconds):
        self.seconds = seconds

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == {WARM}:
            self.start = time.perf_counter()
        if trainer.global_step <= {WARM}:
            return
        elapsed = time.perf_counter() - self.start
        if elapsed >= self.seconds:
            found = (trainer.global_step - {WARM}) / elapsed
            print(json.dumps([found, torch.get_num_threads()]), flush=True)
            os._exit(0)
"""
#: Computes as long as its parent is there.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""
#: Joins a control group, or takes a CPU, and becomes a command.
BECOME = "os.execv(sys.argv[2], sys.argv[2:])"
JOIN = f"import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); {BECOME}"
TAKE = f"import os, sys; os.sched_setaffinity(0, {{int(sys.argv[1])}}); {BECOME}"
GROUP = "lit_optim_bench"
QUOTA = "quota of one core"
SITUATIONS = {"idle": 0, "2 busy": 2, "8 busy": 8, QUOTA: 0}
MODELS = {
    "cnn": [],
    "char_lm": ["experiment=char_lm_nanogpt"],
    "mlp of 10M": ["model=mlp", "model.width=3100"],
}
OURS, TORCH, ONE, ALL = "ours", "torch's defaults", "one", "all"
#: The threads of each, None for those of all cores; and how long they spin.
SIDES: dict[str, tuple[list[str], dict[str, str]]] = {
    OURS: ([], {}),
    # what libgomp does if it is told nothing
    TORCH: ([f"trainer.threads={usable_cpus()}"], {"GOMP_SPINCOUNT": "300000"}),
    ONE: (["trainer.threads=1"], {}),
    ALL: ([f"trainer.threads={usable_cpus()}"], {}),
}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
#: Steps per second and threads, by situation, model and side.
Results = dict[str, dict[str, dict[str, tuple[float, int]]]]


@contextmanager
def others(count: int) -> Iterator[None]:
    """Let processes compute meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def one_core() -> Iterator[list[str]]:
    """What to write before a command that shall have one core, by a control group or affinity."""
    own = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
    paths = {line.split(":")[1]: line.split(":", 2)[2].lstrip("/") for line in own}
    mount = Path("/sys/fs/cgroup")
    for group, file, quota in (
        (mount / paths.get("", "") / GROUP, "cpu.max", "100000 100000"),
        (mount / "cpu" / paths.get("cpu", "") / GROUP, "cpu.cfs_quota_us", "100000"),
    ):
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            try:
                if not (group / file).exists():
                    continue
                (group / file).write_text(quota)
                yield [sys.executable, "-c", JOIN, str(group / "cgroup.procs")]
                return
            finally:
                group.rmdir()
    print("no control group can be made: the quota is an affinity to one CPU", file=sys.stderr)
    yield [sys.executable, "-c", TAKE, str(min(os.sched_getaffinity(0)))]


def measure(
    line: list[str], variables: dict[str, str], prefix: list[str], seconds: float
) -> tuple[float, int]:
    """Steps per second of a run, and its threads.

    Raises:
        SystemExit: it has failed.
    """
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "steps.py").write_text(CALLBACK, "utf-8")
        callback = ["+callbacks.steps._target_=steps.Steps", f"+callbacks.steps.seconds={seconds}"]
        done = subprocess.run(
            [*prefix, sys.executable, str(ROOT / "train.py"), *line, *callback, "allow=steps"],
            cwd=folder,
            env=environment | variables,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
    found, threads = json.loads(done.stdout.splitlines()[-1])
    return float(found), int(threads)


def due(results: Results, model: str, situation: str, cores: int) -> float | None:
    """The steps per second that are due to a run; None if it was not measured alone."""
    idle = results.get("idle", {}).get(model, {})
    if ONE not in idle or ALL not in idle:
        return None
    share = 1.0 if situation == QUOTA else cores / (SITUATIONS[situation] + 1)
    return max(idle[ONE][0] * min(1, share), idle[ALL][0] * min(1, share / cores))


def print_table(results: Results, cores: int) -> None:
    """Print the rows that were measured, in Markdown."""
    print("| model | machine | steps/s due | ours | threads | of it | torch's defaults | of it |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for model in MODELS:
        for situation in SITUATIONS:
            sides = results.get(situation, {}).get(model)
            if not sides:
                continue
            fair, row = due(results, model, situation, cores), [model, situation]
            row.append("" if fair is None else f"{fair:.0f}")
            for side in (OURS, TORCH):
                found, threads = sides.get(side, (None, None))
                row.append("" if found is None else f"{found:.0f}")
                row += [str(threads or "")] * (side == OURS)
                row.append("" if found is None or fair is None else f"{found / fair:.2f}")
            print(f"| {' | '.join(row)} |")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--situations", default=",".join(SITUATIONS), help="default: %(default)s")
    parser.add_argument("--sides", default=",".join(SIDES), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--text", help="the text file of char_lm; it is left out without one")
    parser.add_argument("--results", type=Path, help="a file with earlier results, written to")
    args = parser.parse_args()
    chosen = {}
    for option, known in (("models", MODELS), ("situations", SITUATIONS), ("sides", SIDES)):
        chosen[option] = [word.strip() for word in getattr(args, option).split(",")]
        if unknown := set(chosen[option]) - known.keys():
            parser.error(f"--{option}: there is no {unknown.pop()}; it takes {', '.join(known)}")
    if args.text is None:
        chosen["models"] = [name for name in chosen["models"] if name != "char_lm"]
    results: Results = {}
    if args.results is not None and args.results.exists():
        results = json.loads(args.results.read_text("utf-8"))
    for situation in chosen["situations"]:
        for model in chosen["models"]:
            line = [*MODELS[model], "trainer.max_steps=1000000", "test=false"]
            line += [f"data.path={Path(args.text).resolve()}"] if model == "char_lm" else []
            found = results.setdefault(situation, {}).setdefault(model, {})
            for side in chosen["sides"]:
                if situation != "idle" and side in (ONE, ALL):
                    continue
                threads, variables = SIDES[side]
                limited: AbstractContextManager[list[str]]
                limited = one_core() if situation == QUOTA else nullcontext([])
                with others(SITUATIONS[situation]), limited as prefix:
                    found[side] = measure([*line, *threads], variables, prefix, args.seconds)
                if args.results is not None:
                    args.results.write_text(json.dumps(results, indent=1), "utf-8")
    print_table(results, usable_cpus())


if __name__ == "__main__":
    main()
