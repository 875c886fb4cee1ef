"""What is kept of a run: the best weights by the monitored metric, and the newest."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_optim.errors import UsageError, suggest
from lit_optim.lightning.callbacks import validates


class Checkpoint(ModelCheckpoint):
    """`<filename>.ckpt`, the best, and `last.ckpt`, the newest; also after Ctrl-C or an exception.

    Args:
        dirpath: where they go.
        filename: name of the best.
        monitor: the metric that decides; without validation data only the newest is kept.
        mode: is it best when max or min (the default).
        save_last: keep the newest.

    Raises:
        UsageError: the model does not log the metric.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        filename: str = "best",
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        save_last: bool = True,
    ) -> None:
        super().__init__(
            dirpath,
            filename,
            monitor=monitor,
            mode=mode or "min",
            save_last=save_last,
            save_top_k=1 if monitor else 0,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    #: Nothing is saved between validations; Lightning's own asks so at every step.
    on_train_batch_end = Callback.on_train_batch_end

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if not validates(trainer):
            self.monitor, self.save_top_k = None, 0
        super().on_train_start(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        metrics = trainer.callback_metrics
        if self.monitor and not trainer.sanity_checking and self.monitor not in metrics:
            near = suggest(self.monitor, metrics)
            known = ", ".join(metrics) or "nothing"
            raise UsageError(f"monitor={self.monitor} is not logged{near} (logged: {known})")
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        if self._keeps_newest(trainer):  # the run may end between two validations
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if not self._keeps_newest(trainer) or not trainer.is_global_zero:
            return
        # the other ranks may wait elsewhere or be gone: nothing here may wait for them
        if isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            name = self.format_checkpoint_name({}, self.CHECKPOINT_NAME_LAST)
            checkpoint = trainer._checkpoint_connector.dump_checkpoint()
            trainer.strategy.checkpoint_io.save_checkpoint(checkpoint, name)
            self.last_model_path = name

    def _keeps_newest(self, trainer: Trainer) -> bool:
        return bool(self.save_last and trainer.global_step and not trainer.fast_dev_run)  # type: ignore[attr-defined]
