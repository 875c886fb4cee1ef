"""One process of several that dies takes the others with it, and is named in a line."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy

from lit_optim.system import signal_name
from lit_optim.training.overrides import stop_child_observer

POLL_SECONDS = 0.5
#: That the others have to notice by themselves, which tells more.
GRACE_SECONDS = 4.0
PARENT = os.getppid()
#: What a broken connection says, in gloo's words and NCCL's.
BROKEN = ("by peer", "Broken pipe", "remote process")
#: What gloo says.
GAVE_UP = re.compile(r"Timed out waiting \d+ms for \w+ operation")


class Ranks(Callback):
    """Watches the processes that Lightning has started, and from them the one that started them.

    A process that waits for one that is gone would wait for minutes, or forever.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        others = started(trainer)
        if others:
            stop_child_observer()
            threading.Thread(target=_watch, args=(others,), daemon=True).start()
        elif trainer.world_size > 1 and trainer.local_rank and _by_lightning(trainer):
            threading.Thread(target=_watch_parent, daemon=True).start()


def started(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    """The processes of the other ranks of this machine, where this one has started them."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _by_lightning(trainer: Trainer) -> bool:
    """Whether the ranks are processes that Lightning started; others have who looks after them."""
    strategy = trainer.strategy
    if not isinstance(strategy, ParallelStrategy):
        return False
    return isinstance(strategy.cluster_environment, LightningEnvironment)


def died(trainer: Trainer, error: BaseException) -> str | None:
    """Which rank's end has brought about an error here, and how it ended; None if none has."""
    others = started(trainer)
    if not (others and is_broken(error)):
        return None
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until:
        told = _first_dead(others)
        if told:
            return told
        time.sleep(0.1)
    return None


def is_broken(error: BaseException) -> bool:
    """Whether an error is that another process is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in BROKEN)


def gave_up(error: BaseException) -> bool:
    """Whether an error is that another process has not come within the strategy's timeout."""
    return isinstance(error, RuntimeError) and GAVE_UP.search(str(error)) is not None


def end_others(trainer: Trainer) -> None:
    """End the processes that this one has started, which can do nothing alone."""
    others = started(trainer)
    until = time.monotonic() + GRACE_SECONDS
    while any(other.poll() is None for other in others) and time.monotonic() < until:
        time.sleep(0.1)
    _kill(others)


def tell_if_left(waited: bool = False) -> None:
    """In a process that was started: say so if who started it is gone, as nobody else can.

    Args:
        waited: it is not gone but has not come; if it has waited as well, it ends this process.
    """
    time.sleep(2 * GRACE_SECONDS if waited else POLL_SECONDS)
    gone = os.getppid() != PARENT
    if (gone or waited) and os.environ.get("LOCAL_RANK") == "1":
        how = "is gone" if gone else "hangs, or has gone another way than the others"
        print(f"lit_optim: rank 0 {how}; all ranks are ended", file=sys.stderr, flush=True)


def _first_dead(others: list[subprocess.Popen[bytes]]) -> str | None:
    codes = {rank: other.poll() for rank, other in enumerate(others, 1)}
    # who was killed is to blame; who ended with a code may only have noticed
    for rank, code in sorted(codes.items(), key=lambda item: item[1] or 0):
        if code is not None and code < 0:
            return f"rank {rank} was killed by {signal_name(-code)}; all ranks are ended"
        if code:
            return f"rank {rank} ended with code {code}, as told above; all ranks are ended"
    return None


def _kill(others: list[subprocess.Popen[bytes]]) -> None:
    for other in others:
        if other.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                other.kill()


def _watch(others: list[subprocess.Popen[bytes]]) -> None:
    told = None
    while told is None:
        time.sleep(POLL_SECONDS)
        if all(other.poll() == 0 for other in others):
            return
        told = _first_dead(others)
    time.sleep(GRACE_SECONDS)  # this thread ends with the process, if that notices
    print(f"lit_optim: {told}", file=sys.stderr, flush=True)
    _kill(others)
    os._exit(1)


def _watch_parent() -> None:
    while os.getppid() == PARENT:
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS)
    tell_if_left()
    os._exit(1)
