"""Updates each parameter once its gradient is ready, and frees the gradient."""

from __future__ import annotations

from collections.abc import Iterator

from lit_optim.callbacks.nonfinite import NonFinite, has_loss_scaler
from lit_optim.errors import UsageError
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a, variants
from lit_optim.release import Release, check_release, release_gradients
from lit_optim.training.overrides import set_clip_value


class GradientRelease(Callback):
    """Updates each parameter in the backward pass, once its gradient is ready, and frees it.

    `trainer.gradient_release=true` adds it. It is for automatic optimization on one device, or of a
    model that `fully_shard` shards; see `lit_optim.release_gradients`. Weights, schedules, logs and
    checkpoints are those of a training without it. With gradient_clip_algorithm="value" each
    gradient is clipped when it is ready.

    Raises:
        UsageError: the run needs all gradients at a time: it clips by their norm, accumulates,
            scales the loss, or skips an update if one of them is not finite.
    """

    def __init__(self) -> None:
        self._releases: list[Release] = []
        self._limit: int | float | None = None  # the size to which the trainer clips

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for reason in find_obstacles(trainer, pl_module):
            raise UsageError(f"trainer.gradient_release=true: {reason}")
        for optimizer in trainer.optimizers:
            check_release(pl_module, optimizer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._limit = trainer.gradient_clip_val
        for optimizer in trainer.optimizers:
            release = release_gradients(pl_module, optimizer, clip_value=self._limit or None)
            self._releases.append(release)
        set_clip_value(trainer, None)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._releases:
            set_clip_value(trainer, self._limit)
        for release in self._releases:
            release.remove()
        self._releases.clear()


def find_obstacles(trainer: Trainer, module: LightningModule) -> Iterator[str]:
    """Why gradients cannot be released in this run, and what can be had instead."""
    limit, strategy = trainer.gradient_clip_val, trainer.strategy
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not module.automatic_optimization:
        yield (
            f"{type(module).__name__} has manual optimization; there, "
            "lit_optim.release_gradients(self, self.optimizers()) does it, for losses of one "
            "optimizer each"
        )
    if limit and trainer.gradient_clip_algorithm != "value":
        yield (
            f"trainer.gradient_clip_val={limit:g} clips by the norm of all gradients; "
            "trainer.gradient_clip_algorithm=value clips each number by itself, and "
            "optimizer.clip_update=1 the update of each parameter"
        )
    clip = [kind.configure_gradient_clipping for kind in variants("LightningModule")]
    if type(module).configure_gradient_clipping not in clip:
        yield (
            f"configure_gradient_clipping of {type(module).__name__} gets all gradients; "
            "optimizer.clip_update=1 clips the update of each parameter"
        )
    accumulates = [c for c in callbacks if is_a(c, "callbacks.GradientAccumulationScheduler")]
    if trainer.accumulate_grad_batches != 1 or accumulates:
        yield (
            "accumulated gradients have to be kept (trainer.accumulate_grad_batches, batch=full); "
            "a larger data.batch_size makes the same update, and there is more memory for it now"
        )
    if has_loss_scaler(trainer):
        yield (
            f"the loss scaling of trainer.precision={trainer.precision} looks at all gradients "
            "before the update; bf16-mixed and bf16-true need none"
        )
    if any(isinstance(c, NonFinite) and c.policy == "skip" for c in callbacks):
        yield (
            "NonFinite looks at all gradients before the update to skip one; its policies stop and "
            "rollback look at the loss"
        )
    kinds = ("strategies.SingleDeviceStrategy", "strategies.ModelParallelStrategy")
    if not any(is_a(strategy, kind) for kind in kinds):
        yield (
            f"{type(strategy).__name__} averages gradients after they would be released; "
            "trainer=fsdp averages them before, and shards parameters and states too"
        )
