"""When the metrics of a training batch are logged."""

from __future__ import annotations

from lightning.pytorch import Trainer


def is_logged(trainer: Trainer) -> bool:
    """Whether somebody reads the metrics of the batch that has just ended.

    The loggers do every `log_every_n_steps` and when the run is told to stop; who follows a metric
    does at the end of an epoch. `self.log` takes as long as a quarter of the step of a tiny model,
    so for the other batches it is not called. To be asked after the callbacks: they may stop a run.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    at_step = every > 0 and trainer.global_step % every == 0
    return at_step or trainer.is_last_batch or trainer.should_stop
