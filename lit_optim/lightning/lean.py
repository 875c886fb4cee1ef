"""What a trainer does at every batch for nobody, taken away."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import PassThroughProfiler

#: The hooks that are called for every batch, on every callback.
EVERY_BATCH = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
)


def lean(trainer: Trainer) -> Trainer:
    """Skip the hooks that a callback leaves empty, and the profiler where there is none.

    Lightning calls all of them, each within a profiler's context: for a tiny model that is a tenth
    of a step. It skips what is not callable.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for hook in EVERY_BATCH:
            found = getattr(getattr(callback, hook), "__func__", None)
            if found is getattr(Callback, hook):
                setattr(callback, hook, None)
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = NoProfiler()  # type: ignore[attr-defined]
    return trainer


class NoProfiler(PassThroughProfiler):
    """Lightning's own, but for its contexts: they are generators, dozens of them at every step."""

    nothing = nullcontext("")

    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]
        """Do nothing."""
        return self.nothing
