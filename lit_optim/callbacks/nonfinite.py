"""Stops a run, skips the update or rolls back when a loss or a gradient is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_optim.callbacks.averaged_weights import TRAINING_WEIGHTS
from lit_optim.callbacks.checkpoint import Checkpoint, are_finite
from lit_optim.checkpoints.files import find_newest_intact
from lit_optim.errors import Diverged, TrainingFailed, UsageError, how_many
from lit_optim.hyperparameters import check
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.sharding import local_tensor, shard_like
from lit_optim.updates import innermost_optimizer

LOG = logging.getLogger("lit_optim")

Policy = Literal["stop", "skip", "rollback"]
#: The run ends after this many steps in a row without a loss.
MAX_STEPS_WITHOUT_LOSS = 100
#: How often a loss on a GPU is read, which waits for the GPU, in steps.
GPU_INTERVAL = 10


class NonFinite(Callback):
    """Handles a loss or a gradient that is NaN or infinite.

    - `stop`: the run ends with a message and exit code 1; earlier checkpoints stay. The loss is
      checked after every step on a CPU and after every tenth on a GPU, before each validation and
      at the end.
    - `skip`: an update whose gradient is not finite is skipped: weights, optimizer and schedule
      stay as they are. Every gradient is checked, which reads it once more. A step that evaluates
      the loss several times (LBFGS) is undone if one of its gradients is not finite.
    - `rollback`: as `stop`, but weights, optimizer and schedule return to the newest checkpoint of
      the run, and training continues with the next batch.

    With skip and rollback, a warning is printed and `nonfinite` is logged each time, and the run
    ends after more than `most` in a row. All ranks take the same decision. A loss scaler
    (16-mixed) handles overflows itself. A run also ends if `training_step` returns None a hundred
    times in a row, except in manual optimization, where it need not return the loss; there the
    gradients are checked before each update.

    Args:
        policy: one of these.
        most: how many in a row are tolerated with skip and rollback.

    Raises:
        Diverged: the run must end.
        TrainingFailed: there is no loss to check.
    """

    def __init__(self, policy: Policy = "stop", most: Annotated[int, "> 0"] = 10) -> None:
        check(type(self).__init__, {"policy": policy, "most": most})
        self.policy, self.most = policy, most
        self.count = 0  # of the whole run
        self._in_a_row = 0
        self._none = 0
        self._bad: Tensor | None = None  # whether one of the losses since the last check is
        self._since = 0
        self._guards: dict[int, _Guard] = {}
        self.newest: Tensor | None = None  # the loss of the newest backward pass

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self.newest = loss.detach()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.policy != "skip" or not pl_module.automatic_optimization:
            return
        for optimizer in trainer.optimizers:
            if _evaluates_again(optimizer):
                self._guards[id(optimizer)] = _Guard(optimizer, self._note_update)

    def _note_update(self) -> None:
        self._in_a_row = 0

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self.policy != "skip" and pl_module.automatic_optimization:  # the loss is checked
            return
        if has_loss_scaler(trainer):
            return
        params = [p for group in optimizer.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        if self.policy != "skip":  # manual optimization may not return the loss
            self._note_bad([~torch.isfinite(local_tensor(grad)).all() for grad in grads])
            return
        finite = are_finite(grads)
        if trainer.world_size > 1:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        guard = self._guards.get(id(optimizer))
        if finite:
            if guard is not None:
                guard.remember()
            else:
                self._in_a_row = 0
            return
        for p in params:
            p.grad = None
        self._note(trainer, "gradient", "the update is skipped")
        if guard is not None:
            raise _Discarded

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            if not pl_module.automatic_optimization:  # there it need not return the loss
                self._check_if_due(trainer, pl_module)
                return
            self._none += 1
            if self._none == MAX_STEPS_WITHOUT_LOSS:
                raise TrainingFailed(
                    f"training_step has returned no loss {MAX_STEPS_WITHOUT_LOSS} times in a row, "
                    f"at step {trainer.global_step}"
                )
            return
        self._none = 0
        if self.policy == "skip":
            return
        is_alone = self._bad is None and trainer.world_size == 1
        if is_alone and _is_finite_number(loss):
            self._since = self._in_a_row = 0  # in a tenth of the time of what follows
            return
        self._note_bad([~torch.isfinite(loss.detach())])
        self._check_if_due(trainer, pl_module)

    def _note_bad(self, bad: list[Tensor]) -> None:
        for flag in bad:
            self._bad = flag if self._bad is None else self._bad | flag.to(self._bad.device)

    def _check_if_due(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since += 1
        if pl_module.device.type == "cpu" or self._since >= GPU_INTERVAL:
            self._check(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for guard in self._guards.values():
            guard.remove()
        self._guards.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bad is None:
            return
        bad, self._bad, self._since = bool(self._bad), None, 0
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        what = "loss" if pl_module.automatic_optimization else "loss or its gradient"
        if not bad:
            self._in_a_row = 0
        elif self.policy == "stop":
            raise Diverged(f"the {what} is not finite at step {trainer.global_step}")
        else:
            self._note(trainer, what, "back to the newest checkpoint")
            self._roll_back(trainer, pl_module)

    def _note(self, trainer: Trainer, what: str, done: str) -> None:
        self.count += 1
        self._in_a_row += 1
        step = trainer.global_step
        if self._in_a_row > self.most:
            times = how_many(self._in_a_row, "time")
            raise Diverged(f"the {what} is not finite {times} in a row, at step {step}")
        if trainer.is_global_zero:
            LOG.warning(f"the {what} is not finite at step {step}: {done}")
        for logger in trainer.loggers:
            logger.log_metrics({"nonfinite": float(self.count)}, step=step)

    def _roll_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint) and c.dirpath]
        try:
            if not kept:
                raise UsageError("there are no checkpoints")
            kept[0].settle()
            path = find_newest_intact(kept[0].directory)
        except UsageError:
            raise Diverged(
                f"the loss is not finite at step {trainer.global_step}, and there is no checkpoint "
                "to go back to"
            ) from None
        saved = trainer.strategy.load_checkpoint(path, weights_only=True)
        trainer.strategy.load_model_state_dict(saved)
        with torch.no_grad():
            for name, p in pl_module.named_parameters():
                if name in saved.get(TRAINING_WEIGHTS, {}):
                    p.copy_(shard_like(saved[TRAINING_WEIGHTS][name], p))
        trainer.strategy.load_optimizer_state_dict(saved)
        for optimizer in trainer.optimizers:
            if hasattr(optimizer, "train"):
                optimizer.train()
            optimizer.zero_grad()
        for config, state in zip(trainer.lr_scheduler_configs, saved["lr_schedulers"], strict=True):
            config.scheduler.load_state_dict(state)
            if isinstance(config.scheduler, ScheduledLR):
                config.scheduler.refresh()


def find_divergence(trainer: Trainer) -> str | None:
    """What is not finite in a training that an error of another kind has ended.

    A matrix that is not finite has no root, and some distributions refuse such a parameter, before
    the loss is checked.
    """
    watching = [c for c in trainer.callbacks if isinstance(c, NonFinite)]  # type: ignore[attr-defined]
    losses = [c.newest for c in watching if c.newest is not None]
    with suppress(Exception):  # a device that takes no more commands
        if not are_finite(losses):
            return "the loss is not finite"
        if not are_finite(trainer.lightning_module.parameters()):
            return "the weights are not finite"
    return None


class _Discarded(Exception):
    """Ends a step that evaluates the loss several times: a gradient is not finite."""


class _Guard:
    """Undoes a step that evaluates the loss several times, if one of its gradients is not finite.

    It replaces the optimizer's `step`.

    Args:
        optimizer: the optimizer.
        note_update: called after each step that is not undone.
    """

    def __init__(self, optimizer: Optimizer, note_update: Callable[[], None]) -> None:
        self._optimizer, self._note_update = optimizer, note_update
        self._step = optimizer.step
        self._before: tuple[list[Tensor], dict[Any, dict[str, Any]]] | None = None
        optimizer.step = self  # type: ignore[method-assign]

    def remove(self) -> None:
        """Restore the optimizer's own `step`."""
        self._optimizer.step = self._step  # type: ignore[method-assign]

    @torch.no_grad()
    def remember(self) -> None:
        """Save the weights and the state at the first evaluation of a step."""
        if self._before is None:
            weights = [p.clone() for p in self._params()]
            state = {p: _copy_state(values) for p, values in self._optimizer.state.items()}
            self._before = weights, state

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make a step of the optimizer; return None if it is undone."""
        self._before = None
        try:
            result = self._step(*args, **kwargs)
        except _Discarded:
            self._undo()
            return None
        except Diverged:  # too many in a row
            self._undo()
            raise
        finally:
            self._before = None
        self._note_update()
        return result

    @torch.no_grad()
    def _undo(self) -> None:
        if self._before is None:
            return
        weights, state = self._before
        for p, before in zip(self._params(), weights, strict=True):
            p.copy_(before)
        self._optimizer.state.clear()
        self._optimizer.state.update(state)

    def _params(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


def _copy_state(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a state; the tensors that LBFGS keeps in lists are never overwritten."""
    copy: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            value = value.clone()
        copy[name] = list(value) if isinstance(value, list) else value
    return copy


def _is_finite_number(loss: Tensor) -> bool:
    """Whether a loss is a single number in the memory of the CPU, and finite."""
    is_number = type(loss) is Tensor and loss.is_cpu and loss.numel() == 1
    return is_number and math.isfinite(abs(loss.item()))


def _evaluates_again(optimizer: Optimizer) -> bool:
    """Whether a step calls the closure again after it has changed the weights."""
    is_lbfgs = isinstance(innermost_optimizer(optimizer), torch.optim.LBFGS)
    return is_lbfgs or "closure" in getattr(optimizer, "requirements", ())


def has_loss_scaler(trainer: Trainer) -> bool:
    """Whether the loss is scaled, as in 16-mixed."""
    precision = trainer.precision_plugin
    return is_a(precision, "plugins.MixedPrecision") and precision.scaler is not None
