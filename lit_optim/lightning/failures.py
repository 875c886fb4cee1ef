"""Explains failures whose traceback does not help."""

from __future__ import annotations

import re
import traceback

import torch

from lit_optim.callbacks.ranks import describe_death, is_timeout
from lit_optim.lightning_classes import Trainer

WORKER_KILLED = re.compile(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (.*)")


def explain_failure(error: BaseException, trainer: Trainer) -> str | None:
    """Explain an error in one line; return None if its traceback is better."""
    text = str(error)
    step = trainer.global_step
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        batches = f" with batches of {size}" if size else ""
        return (
            f"out of memory at step {step}{batches}: take a smaller data.batch_size, and "
            "trainer.accumulate_grad_batches to make up for it"
        )
    match = WORKER_KILLED.match(text) if isinstance(error, RuntimeError) else None
    if match or _is_lost_worker(error):
        what = match[1].rstrip(". ") if match else "exited unexpectedly"
        return (
            f"a worker of the data loader {what}, at step {step}: often it is the memory of the "
            "machine; take fewer workers"
        )
    if is_timeout(error) and trainer.is_global_zero:
        others = trainer.world_size - 1
        who = "rank 1" if others == 1 else f"one of the ranks 1 to {others}"
        return f"{who} hangs or has diverged from rank 0, at step {step}: all are ended"
    return describe_death(trainer, error)


def _is_lost_worker(error: BaseException) -> bool:
    """Whether a worker of a data loader died while it passed a batch."""
    if not isinstance(error, OSError | EOFError):
        return False
    frames = [
        frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return "torch.multiprocessing.reductions" in frames
