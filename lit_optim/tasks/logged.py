"""Decides when the metrics of a training batch are logged."""

from __future__ import annotations

from lightning.pytorch import Trainer


def is_logged(trainer: Trainer) -> bool:
    """Whether the metrics of the batch that has just ended are read.

    Loggers read them every `log_every_n_steps` and when the run stops; callbacks that follow a
    metric read them at the end of an epoch. `self.log` takes a quarter of the step of a tiny model,
    so it is not called for other batches. Call this after the callbacks, which may stop a run.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    at_step = every > 0 and trainer.global_step % every == 0
    return at_step or trainer.is_last_batch or trainer.should_stop
