"""Ends all ranks when one of them dies, and names it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time

from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a
from lit_optim.streams import tell
from lit_optim.system import send_signal, signal_name
from lit_optim.training.overrides import stop_child_observer

POLL_SECONDS = 0.5
#: How long the other ranks have to notice it themselves, which gives a better message.
GRACE_SECONDS = 4.0
#: How long a rank may take to end that has broken a connection; on a busy machine its traceback
#: alone takes seconds.
SECONDS_TO_DIE = 30.0
#: Whether the line that names the dead rank is printed by the process that noticed first.
_is_told = threading.Event()
PARENT = os.getppid()
#: Parts of the errors of gloo and NCCL when a connection is broken.
BROKEN_CONNECTION = ("by peer", "Broken pipe", "remote process")
#: The error of gloo after a timeout.
TIMED_OUT = re.compile(r"Timed out waiting \d+ms for \w+ operation")


class Ranks(Callback):
    """Watches the processes that Lightning has started, and in these the process that started them.

    A process that waits for a dead one would wait for minutes, or forever.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        others = find_started(trainer)
        if others:
            stop_child_observer()
            threading.Thread(target=_watch, args=(others,), daemon=True).start()
        elif trainer.world_size > 1 and trainer.local_rank and _by_lightning(trainer):
            threading.Thread(target=_watch_parent, daemon=True).start()


def find_started(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    """Return the processes of the other ranks on this machine that this process has started."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def end_others(trainer: Trainer, number: int) -> None:
    """End the processes of a run that has nothing to save, once a signal has come to this one.

    The one that has started the others gets the signal as well, and ends those.
    """
    _kill(find_started(trainer))
    if trainer.local_rank and _by_lightning(trainer) and os.getppid() == PARENT:
        send_signal(PARENT, number)


def _by_lightning(trainer: Trainer) -> bool:
    """Whether Lightning started the ranks; other launchers watch their processes themselves."""
    strategy = trainer.strategy
    if not is_a(strategy, "strategies.ParallelStrategy"):
        return False
    return is_a(strategy.cluster_environment, "plugins.environments.LightningEnvironment")


def describe_death(trainer: Trainer, error: BaseException) -> str | None:
    """Describe how the rank ended that has caused an error here; None if no rank has."""
    others = find_started(trainer)
    if not (others and is_broken_connection(error)):
        return None
    until = time.monotonic() + SECONDS_TO_DIE
    while time.monotonic() < until:
        report = _describe_first_death(others)
        if report:
            _is_told.set()
            return report
        time.sleep(0.1)
    return None


def is_broken_connection(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in BROKEN_CONNECTION)


def is_timeout(error: BaseException) -> bool:
    """Whether an error says that another process did not respond within the timeout."""
    return isinstance(error, RuntimeError) and TIMED_OUT.search(str(error)) is not None


def end_ranks(trainer: Trainer) -> None:
    """End the processes that this one has started, which can do nothing alone."""
    others = find_started(trainer)
    until = time.monotonic() + GRACE_SECONDS
    while any(other.poll() is None for other in others) and time.monotonic() < until:
        time.sleep(0.1)
    _kill(others)


def report_lost_parent(waited: bool = False) -> None:
    """Report, in a started process, that rank 0 is gone, since no other process can.

    Args:
        waited: whether rank 0 did not respond within the timeout. If it is not gone but waits too,
            it ends this process meanwhile.
    """
    time.sleep(2 * GRACE_SECONDS if waited else POLL_SECONDS)
    gone = os.getppid() != PARENT
    if (gone or waited) and os.environ.get("LOCAL_RANK") == "1":
        how = "is gone" if gone else "hangs or has diverged from the other ranks"
        tell(f"rank 0 {how}; stopping all ranks")


def report_own_end(message: str) -> None:
    """Report, in a started process, why it ends, unless rank 0 ends for the same reason.

    That one has then said so, and ends this process meanwhile.
    """
    time.sleep(2 * GRACE_SECONDS)
    if os.getppid() == PARENT:
        tell(f"rank {os.environ.get('RANK') or os.environ.get('LOCAL_RANK')}: {message}")


def _describe_first_death(others: list[subprocess.Popen[bytes]]) -> str | None:
    codes = {rank: other.poll() for rank, other in enumerate(others, 1)}
    # a killed process is the cause; one that ended with a code may only have noticed
    for rank, code in sorted(codes.items(), key=lambda item: item[1] or 0):
        if code is not None and code < 0:
            return f"rank {rank} was killed by {signal_name(-code)}; stopping all ranks"
        if code:
            return f"rank {rank} ended with code {code}, see above; stopping all ranks"
    return None


def _kill(others: list[subprocess.Popen[bytes]]) -> None:
    for other in others:
        if other.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                other.kill()


def _watch(others: list[subprocess.Popen[bytes]]) -> None:
    report = None
    while report is None:
        time.sleep(POLL_SECONDS)
        if all(other.poll() == 0 for other in others):
            return
        report = _describe_first_death(others)
    time.sleep(GRACE_SECONDS)  # this thread ends with the process, if the process notices
    if _is_told.is_set():
        time.sleep(SECONDS_TO_DIE)
    else:
        tell(report)
    _kill(others)
    os._exit(1)


def _watch_parent() -> None:
    while os.getppid() == PARENT:
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS)
    report_lost_parent()
    os._exit(1)
