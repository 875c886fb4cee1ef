"""How much of its fair share of a busy machine a run gets: its steps per second beside other work.

    python scripts/bench_busy.py --text shakespeare.txt              all, in eight minutes
    python scripts/bench_busy.py --models cnn --situations "idle,8 busy" --rounds 9
    python scripts/bench_busy.py --results busy.json --models cnn    again, and with others

A run is alone, beside 2 and beside 8 processes that compute without pause, or has a quota of one
core (a control group; where none can be made, the affinity, which is said). Each is a new process;
ours, which chooses its threads by the load, has started beside the busy ones.

- `ours` is `python train.py ...`.
- `torch's defaults` is the same with the threads of torch, which spin as libgomp's do by default.
- `one` and `all` threads, alone on the machine, say what a share of it is worth: with s of its
  cores a process is due what it reaches alone with k threads times min(1, s / k), for the better of
  k = 1 and all; beside n others s is the number of cores divided by n + 1.
- `a loop` in one thread, which never waits, shows what the system gives to anybody: where three
  processes share two cores it is not exactly two thirds of one to each, within a second.

The machine drifts by more than what is to be found, so all runs of a model take turns: one computes
for `--seconds` while the others, and for `one` and `all` the busy processes too, are stopped. A
ratio is the median of the ratios within a round, with their range.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import Progress

from lit_optim.system import usable_cpus

ROOT = Path(__file__).parent.parent
WARM = 5  # steps before the first turn
#: A turn begins when a run has computed for so long, and has at least so many steps.
SETTLED, FEWEST = 0.1, 3
#: The number of the step, when it began, and the threads.
NOTE = struct.Struct("ddd")
CALLBACK = f"""
import mmap, os, time
import torch
from lightning.pytorch import Callback
from struct import Struct

NOTE = Struct({NOTE.format!r})


class Steps(Callback):
    def __init__(self, path):
        with open(path, "r+b") as file:
            self.shared = mmap.mmap(file.fileno(), NOTE.size)
        self.parent = os.getppid()

    def on_train_batch_start(self, trainer, *args):
        if os.getppid() != self.parent:
            os._exit(1)
        threads = torch.get_num_threads()
        NOTE.pack_into(self.shared, 0, trainer.global_step, time.perf_counter(), threads)
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
#: Counts what it has computed, from a number that is no update of a run on.
LOOP = f"""
import mmap, os, sys, time
from struct import Struct

NOTE = Struct({NOTE.format!r})
with open(sys.argv[1], "r+b") as file:
    shared = mmap.mmap(file.fileno(), NOTE.size)
parent, count = os.getppid(), 0
while os.getppid() == parent:
    sum(range(10_000))
    count += 1
    NOTE.pack_into(shared, 0, count, time.perf_counter(), 1)
"""
OURS, TORCH, ONE, ALL = "ours", "torch's defaults", "one", "all"
A_LOOP, LOOP_ALONE = "a loop", "a loop alone"
#: What is measured in a situation, and what it is compared with, alone.
MEASURED, REFERENCES = (OURS, TORCH), (ONE, ALL)
#: The threads of each, None for those of all cores; and how long they spin.
SIDES: dict[str, tuple[list[str], dict[str, str]]] = {
    OURS: ([], {}),
    # what libgomp does if it is told nothing
    TORCH: ([f"trainer.threads={usable_cpus()}"], {"GOMP_SPINCOUNT": "300000"}),
    ONE: (["trainer.threads=1"], {}),
    ALL: ([f"trainer.threads={usable_cpus()}"], {}),
}
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
#: By situation, model and side: its threads, and the steps per second of each round.
Results = dict[str, dict[str, dict[str, tuple[int, list[float]]]]]


class Run:
    """A training in a process of its own, which is stopped between its turns.

    Args:
        line: the arguments of train.py; none for a loop that counts.
        variables: of its environment.
        prefix: what comes before its command.

    Raises:
        SystemExit: it has failed.
    """

    def __init__(self, line: list[str], variables: dict[str, str], prefix: list[str]) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        self._folder = tempfile.TemporaryDirectory()
        self._line, folder = line, Path(self._folder.name)
        (folder / "steps.py").write_text(CALLBACK, "utf-8")
        (folder / "note").write_bytes(bytes(NOTE.size))
        with (folder / "note").open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), NOTE.size)
        self._output = (folder / "output").open("w+")
        callback = ["+callbacks.steps._target_=steps.Steps", f"+callbacks.steps.path={file.name}"]
        command = [str(ROOT / "train.py"), *line, *callback, "allow=steps"]
        if not line:
            command = ["-c", LOOP, file.name]
        self._process = subprocess.Popen(
            [*prefix, sys.executable, *command],
            cwd=folder,
            env=environment | variables,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        while self._note()[0] < WARM:
            if self._process.poll() is not None:
                self._fail()
            time.sleep(0.02)
        self._stop()

    @property
    def threads(self) -> int:
        """Those of torch."""
        return int(self._note()[2])

    def turn(self, seconds: float) -> float:
        """Compute for so long; return the steps per second."""
        self._process.send_signal(signal.SIGCONT)
        first = self._after(int(self._note()[0]) + 1, SETTLED)
        self._after(int(first[0]) + FEWEST, seconds)
        self._stop()
        last = self._note()
        return (last[0] - first[0]) / (last[1] - first[1])

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._folder.cleanup()

    def _note(self) -> tuple[float, ...]:
        return NOTE.unpack_from(self._shared, 0)

    def _after(self, step: int, seconds: float) -> tuple[float, ...]:
        """What it notes when these seconds are over and it has begun this step."""
        end = time.perf_counter() + seconds
        while (found := self._note())[0] < step or time.perf_counter() < end:
            if self._process.poll() is not None:
                self._fail()
            time.sleep(min(0.002, seconds))
        while found != (again := self._note()):  # it may have been writing
            found = again
        return found

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._fail()

    def _fail(self) -> None:
        self._output.seek(0)
        sys.exit(f"{' '.join(self._line)}\n{self._output.read()}")


class Others:
    """Processes that compute meanwhile, unless they are paused."""

    def __init__(self, count: int) -> None:
        self._busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop them within it."""
        self._send(signal.SIGSTOP)
        yield
        self._send(signal.SIGCONT)

    def close(self) -> None:
        """End them."""
        self._send(signal.SIGKILL)
        for process in self._busy:
            process.wait()

    def _send(self, number: int) -> None:
        for process in self._busy:
            process.send_signal(number)


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


def start(line: list[str], side: str, prefix: list[str], stack: ExitStack) -> Run:
    """Start a run, which ends with the stack."""
    threads, variables = SIDES[side]
    run = Run([*line, *threads], variables, prefix)
    stack.callback(run.close)
    return run


def due(found: dict[str, tuple[int, list[float]]], situation: str, cores: int) -> list[float]:
    """The steps per second that were due to a run in each round."""
    share = 1.0 if situation == QUOTA else cores / (SITUATIONS[situation] + 1)
    shares = {side: min(1, share / found[side][0]) for side in REFERENCES}
    best = max(REFERENCES, key=lambda side: median(found[side][1]) * shares[side])
    return [rate * shares[best] for rate in found[best][1]]


def given(found: dict[str, tuple[int, list[float]]], situation: str, cores: int) -> list[float]:
    """What a loop got of the share of a core that was due to it, in each round."""
    share = 1.0 if situation == QUOTA else min(1.0, cores / (SITUATIONS[situation] + 1))
    pairs = zip(found[A_LOOP][1], found[LOOP_ALONE][1], strict=True)
    return [beside / (alone * share) for beside, alone in pairs]


def print_table(results: Results, cores: int) -> None:
    """Print the rows that were measured, in Markdown."""
    head = ["model", "machine", "steps/s due", "ours", "threads", "of it", "range"]
    print(f"| {' | '.join(head)} | torch's defaults | of it | range | a loop, of its share |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for model in MODELS:
        for situation in SITUATIONS:
            found = results.get(situation, {}).get(model)
            if not found:
                continue
            fair = due(found, situation, cores)
            row = [model, situation, f"{median(fair):.0f}"]
            for side in MEASURED:
                threads, rates = found[side]
                ratios = [rate / of for rate, of in zip(rates, fair, strict=True)]
                row += [f"{median(rates):.0f}", *[str(threads)] * (side == OURS)]
                row += [f"{median(ratios):.2f}", f"{min(ratios):.2f} - {max(ratios):.2f}"]
            row.append(f"{median(given(found, situation, cores)):.2f}")
            print(f"| {' | '.join(row)} |")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--situations", default=",".join(SITUATIONS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.6, help="of a turn (%(default)s)")
    parser.add_argument("--text", help="the text file of char_lm; it is left out without one")
    parser.add_argument("--results", type=Path, help="a file with earlier results, written to")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends what it has started
    chosen = {}
    for option, known in (("models", MODELS), ("situations", SITUATIONS)):
        chosen[option] = [word.strip() for word in getattr(args, option).split(",")]
        if unknown := set(chosen[option]) - known.keys():
            parser.error(f"--{option}: there is no {unknown.pop()}; it takes {', '.join(known)}")
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    if args.text is None:
        chosen["models"] = [name for name in chosen["models"] if name != "char_lm"]
    results: Results = {}
    if args.results is not None and args.results.exists():
        results = json.loads(args.results.read_text("utf-8"))
    turns = args.rounds * (len(SIDES) + 2)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(chosen["models"]) * len(chosen["situations"]) * turns)
        for model in chosen["models"]:
            line = [*MODELS[model], "trainer.max_steps=1000000", "test=false"]
            line += [f"data.path={Path(args.text).resolve()}"] if model == "char_lm" else []
            with ExitStack() as alone:
                progress.update(bar, description=f"{model} starts")
                references = {side: start(line, side, [], alone) for side in REFERENCES}
                references[LOOP_ALONE] = Run([], {}, [])
                alone.callback(references[LOOP_ALONE].close)
                for situation in chosen["situations"]:
                    limited: AbstractContextManager[list[str]]
                    limited = one_core() if situation == QUOTA else nullcontext([])
                    with limited as prefix, ExitStack() as stack:
                        progress.update(bar, description=f"{model}, {situation}: starts")
                        busy = Others(SITUATIONS[situation])
                        stack.callback(busy.close)
                        runs = {OURS: start(line, OURS, prefix, stack)}
                        with busy.paused():
                            runs[TORCH] = start(line, TORCH, prefix, stack)
                        runs[A_LOOP] = Run([], {}, prefix)
                        stack.callback(runs[A_LOOP].close)
                        runs |= references
                        progress.update(bar, description=f"{model}, {situation}")
                        rates: dict[str, list[float]] = {side: [] for side in runs}
                        for _ in range(args.rounds):
                            for side, run in runs.items():
                                is_alone = side in references
                                with busy.paused() if is_alone else nullcontext():
                                    rates[side].append(run.turn(args.seconds))
                                progress.advance(bar)
                        found = {side: (run.threads, rates[side]) for side, run in runs.items()}
                        results.setdefault(situation, {})[model] = found
                    if args.results is not None:
                        args.results.write_text(json.dumps(results, indent=1), "utf-8")
    print_table(results, usable_cpus())


if __name__ == "__main__":
    main()
