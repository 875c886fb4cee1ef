"""Whether a long run grows: its memory, threads, open files and time per step, by tenths.

    python scripts/long_run.py                                 20,000 steps and 300 validations
    python scripts/long_run.py --steps 5000 optimizer=muon wrapper=ema

It is what `python train.py` does, with TensorBoard and checkpoints, in a temporary folder. The exit
code is 1 if from the third tenth to the last one there are more threads or open files, or the
median of the later half has more memory or CPU time per step than that of the earlier half, beyond
what is allowed. Before, a run loads, compiles and fills its caches. Wall time depends on other
work, and decides nothing.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf

from lit_optim.app import choices_of
from lit_optim.config.composing import compose_config
from lit_optim.runs.run import run

TENTHS, WARM = 10, 2
#: What the later half may have more than the earlier: a share of memory, and of CPU time, which
#: says something where a tenth takes so many seconds.
MORE_MEMORY, MORE_TIME, LONG = 0.02, 0.2, 1.0
#: Two files and a thread may be those of a checkpoint or of events that are being written.
MORE_FILES, MORE_THREADS = 2, 1


@dataclass(frozen=True)
class Sight:
    """What a process has at the end of a tenth.

    Args:
        step: updates so far.
        memory: resident, in MB.
        threads: of the process, with those of libraries.
        files: open ones.
        wall: seconds since the last one.
        cpu: seconds of all its threads since then.
        validations: so far.
    """

    step: int
    memory: float
    threads: int
    files: int
    wall: float
    cpu: float
    validations: int


class Watch(Callback):
    """Looks at this process after each tenth of a run."""

    seen: tuple[Sight, ...] = ()

    def __init__(self) -> None:
        self._validations = 0
        self._begin = (time.perf_counter(), time.process_time())

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        Watch.seen = ()
        self._begin = (time.perf_counter(), time.process_time())

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        self._validations += not trainer.sanity_checking

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # noqa: D102
        step = trainer.global_step
        if step * TENTHS // trainer.max_steps == len(Watch.seen):
            return
        now = (time.perf_counter(), time.process_time())
        wall, cpu = (b - a for a, b in zip(self._begin, now, strict=True))
        gc.collect()
        Watch.seen += (Sight(step, *read_process(), wall, cpu, self._validations),)
        self._begin = (time.perf_counter(), time.process_time())


def read_process(folder: Path = Path("/proc/self")) -> tuple[float, int, int]:
    """The resident memory of this process in MB, its threads and its open files, on Linux."""
    pages = int((folder / "statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return memory, len(os.listdir(folder / "task")), len(os.listdir(folder / "fd"))


def growth(seen: tuple[Sight, ...]) -> list[str]:
    """What grows, a line each."""
    late = seen[WARM:]
    first, last, half = late[0], late[-1], len(late) // 2
    found = []
    for name, count in (("threads", MORE_THREADS), ("files", MORE_FILES)):
        if getattr(last, name) > getattr(first, name) + count:
            found.append(f"{name}: from {getattr(first, name)} to {getattr(last, name)}")
    for name, most, least in (("memory", MORE_MEMORY, 0.0), ("cpu", MORE_TIME, LONG)):
        before, now = (
            median(getattr(x, name) for x in part) for part in (late[:half], late[half:])
        )
        if now > max(before, least) * (1 + most):
            found.append(f"{name}: from {before:.4g} to {now:.4g} in the later half")
    return found


def main() -> None:
    """Run, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("line", nargs="*", help="overrides, as after train.py")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--validations", type=int, default=300)
    args = parser.parse_args()
    if args.steps < TENTHS or not 1 <= args.validations <= args.steps:
        parser.error(f"--steps must be at least {TENTHS}, and at least --validations")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            train(args.line, args.steps, args.validations)
        finally:
            os.chdir(here)
    print(
        "| steps | validations | memory (MB) | threads | files | wall (ms/step) | CPU (ms/step) |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|")
    before = 0
    for one in Watch.seen:
        each = 1e3 / (one.step - before)
        print(
            f"| {one.step} | {one.validations} | {one.memory:.1f} | {one.threads} | {one.files} "
            f"| {one.wall * each:.2f} | {one.cpu * each:.2f} |"
        )
        before = one.step
    found = growth(Watch.seen)
    print("\n".join(found) or "nothing grows")
    sys.exit(bool(found))


def train(line: list[str], steps: int, validations: int) -> None:
    """Do what `python train.py` does, in this process and folder."""
    cfg = compose_config(
        [
            *line,
            f"trainer.max_steps={steps}",
            "trainer.check_val_every_n_epoch=null",
            f"trainer.val_check_interval={max(1, steps // validations)}",
            "trainer.enable_progress_bar=false",
            "+callbacks.watch._target_=long_run.Watch",
            "allow=[long_run]",
        ]
    )
    choices = choices_of(cfg.hydra)
    run(
        OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), Path.cwd(), choices
    )


if __name__ == "__main__":
    # its callback is named in the configuration, so it must be that of an importable module
    import_module("long_run").main()
