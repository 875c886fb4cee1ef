"""What this package sets on objects of Lightning, and why no argument or hook would do.

What it sets on loggers is in `loggers`.

Whatever Lightning takes as an argument or offers as a hook is used as such elsewhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from types import FrameType, MethodType
from typing import Any, ClassVar, Literal

from torch.utils.data import DataLoader

from lit_optim.lightning_classes import Callback, Trainer, is_a, variants

LOG = logging.getLogger("lit_optim")

Checkpoint = dict[str, Any]

#: The hooks that Lightning calls on every callback for every batch.
BATCH_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
)
#: The name of the thread in which Lightning watches the processes that it started.
CHILD_OBSERVER = "child-process-observer"


class FitCallback(Callback):
    """A callback that belongs to one fit; `configure_optimizers` creates it."""

    #: Where it goes among the callbacks of the trainer.
    position: ClassVar[Literal["first", "after_finetuning", "last"]] = "last"
    #: The identity of the trainer's list of optimizers while those of its fit were configured,
    #: which is still the list of the fit before.
    _configured_with: int | None = None

    def is_stale(self, trainer: Trainer) -> bool:
        """Whether it belongs to an earlier fit, or the next one of its kind replaces it."""
        return True

    def is_of_earlier_fit(self, trainer: Trainer) -> bool:
        """Whether it belongs to an earlier fit, while optimizers are configured."""
        return self._configured_with not in (None, id(trainer.optimizers))

    def merge(self, other: Any) -> bool:
        """Take over the work of `other`, of the same class and fit; False if both are needed."""
        return False


def attach_callbacks(trainer: Trainer, callbacks: Iterable[FitCallback]) -> None:
    """Add callbacks to a trainer whose optimizers are being configured.

    Why: Lightning asks a module for callbacks (`configure_callbacks`) before it asks for
    optimizers, and takes none from `configure_optimizers`. These depend on the optimizer or its
    schedule.
    """
    present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        callback._configured_with = id(trainer.optimizers)
        _skip_noops(callback)
        same_kind = [c for c in present if isinstance(c, type(callback))]
        stale = [c for c in same_kind if c.is_stale(trainer)]
        present[:] = [c for c in present if c not in stale]
        if any(c.merge(callback) for c in same_kind if c not in stale):
            continue
        finetuning = [i for i, c in enumerate(present) if is_a(c, "callbacks.BaseFinetuning")]
        after = 1 + max(finetuning, default=-1)
        places = {"first": 0, "after_finetuning": after, "last": len(present)}
        present.insert(places[callback.position], callback)


def set_clip_value(trainer: Trainer, value: int | float | None) -> None:
    """Set the size to which the trainer clips gradients; None: it does not.

    Why: released gradients are clipped as they come, and at the step there are none left, which
    the clipping of some precisions does not allow.
    """
    trainer.gradient_clip_val = value


def loaded_checkpoint(trainer: Trainer) -> Checkpoint:
    """Return the checkpoint that the trainer resumes from; empty if there is none.

    Why: Lightning calls `on_load_checkpoint` before it configures optimizers, so a callback that
    `configure_optimizers` makes is not called.
    """
    return trainer._checkpoint_connector._loaded_checkpoint or {}


def wrap_checkpoints(
    trainer: Trainer, wrap: Callable[[Callable[[], Checkpoint], bool], Checkpoint]
) -> None:
    """Let `wrap` make every checkpoint of the trainer, from now on.

    Why: the callbacks' `on_save_checkpoint` is called after the weights were read, and not at all
    for checkpoints of the weights alone.

    Args:
        trainer: a wrapper from an earlier fit is replaced.
        wrap: called with a function that returns Lightning's checkpoint, and with whether it has
            the weights alone.
    """
    connector = trainer._checkpoint_connector
    dump = type(connector).dump_checkpoint

    def dump_checkpoint(weights_only: bool | None = None) -> Checkpoint:
        return wrap(lambda: dump(connector, weights_only), bool(weights_only))

    connector.dump_checkpoint = dump_checkpoint  # type: ignore[method-assign]


def end_after_batch(trainer: Trainer) -> None:
    """End a fit once the present batch is done with, as Lightning does after SIGTERM.

    Why: whatever a hook raises comes before the other hooks of the batch, or after the next one is
    fetched. Lightning's handler of the signal, among several processes, sends a message as well,
    from wherever it is called.
    """
    trainer._signal_connector.received_sigterm = True


def answer_sigterm(trainer: Trainer, handler: Callable[[int, FrameType | None], Any]) -> None:
    """Let `handler` do what Lightning's own does at SIGTERM, from when that is set.

    Why: Lightning's sends a message to the other processes from wherever the signal comes. Those
    that wait for another one take it for that, and the run hangs.
    """
    connector = trainer._signal_connector

    def answer(_: Any, number: int, frame: FrameType | None) -> None:
        handler(number, frame)

    connector._sigterm_notifier_fn = MethodType(answer, connector)  # type: ignore[method-assign]


def call_after_batches(trainer: Trainer, function: Callable[[], bool]) -> None:
    """Call a function after each batch of training from the next one on, until it returns True.

    Why: the first hook after a batch comes when the next one has been fetched, which a loader with
    a state has counted then.
    """
    loop = trainer.fit_loop.epoch_loop
    usual = type(loop).on_advance_end

    def on_advance_end(data_fetcher: Any) -> None:
        usual(loop, data_fetcher)
        if function():
            loop.__dict__.pop("on_advance_end", None)

    loop.on_advance_end = on_advance_end  # type: ignore[method-assign]


def call_other_handlers(
    trainer: Trainer, handler: Callable[..., Any], number: int, frame: FrameType | None
) -> None:
    """Call what handles a signal besides Lightning.

    Why: Lightning calls them from its own handler.

    Args:
        trainer: whose handler it is.
        handler: of the signal.
        number: of the signal.
        frame: in which it came.
    """
    for one in getattr(handler, "signal_handlers", [handler]):
        if getattr(one, "__self__", None) is not trainer._signal_connector:
            one(number, frame)


def require_sanity_check(trainer: Trainer) -> None:
    """Have at least one batch validated before the training.

    Why: a metric that is missing would otherwise be noticed after the first epoch only, and the
    trainer has been given its arguments when optimizers are configured.
    """
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        trainer.num_sanity_val_steps = trainer.num_sanity_val_steps or 1


def skip_noop_hooks(trainer: Trainer) -> Trainer:
    """Skip the hooks that a callback leaves empty.

    Why: Lightning calls all of them for every batch, which takes part of the step of a tiny model.
    It skips what is not callable, and has no other way to leave a hook out.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _skip_noops(callback)
    return trainer


def _skip_noops(callback: Callback) -> None:
    for hook in BATCH_HOOKS:
        function = getattr(getattr(callback, hook), "__func__", None)
        if function in [getattr(kind, hook) for kind in variants("Callback")]:
            setattr(callback, hook, None)


def shorten_epoch_loop(trainer: Trainer) -> Trainer:
    """Do for each batch only what something in the run asks for.

    Why: what Lightning's loop does for nobody takes longer than a step of a tiny model. It takes a
    loop of one's own in this place.
    """
    from lit_optim.training.epoch_loop import EpochLoop  # it needs lightning.pytorch

    loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, loop.min_steps, loop.max_steps)
    return trainer


def stop_child_observer() -> None:
    """Stop the thread in which Lightning watches the processes that it started.

    Why: where one of them dies it kills this process without a message; `Ranks` says which one.
    """
    for thread in threading.enumerate():
        if thread.name == CHILD_OBSERVER:
            thread._run = lambda: True  # type: ignore[attr-defined]


def restore_loop(trainer: Trainer, batches_that_stepped: int | None) -> None:
    """Restore the count of batches that ended with a step, by which Lightning logs.

    Why: a checkpoint from the middle of an epoch holds the count of the epoch's beginning.
    """
    if batches_that_stepped is not None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = batches_that_stepped


def fetch_again(trainer: Trainer) -> None:
    """Begin to fetch batches of training anew, before the first is taken.

    Why: the workers of a loader ask its sampler for batches as soon as Lightning has the loader,
    before it tells the sampler the epoch, and before any hook can say where that is resumed.
    """
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(trainer.current_epoch)  # type: ignore[union-attr]
    iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]


def fetch_after_random_states(trainer: Trainer) -> None:
    """Begin to fetch the batches of an epoch anew, unless Lightning is still to begin.

    Why: it begins before it reads the checkpoint, and a loader of torch draws its order, and the
    seed of its workers, when it begins. Loaders with a state, and those that torch does not
    provide, are left as they are.
    """
    loop = trainer.fit_loop
    is_later = trainer.current_epoch > 0 and not (loop.is_resuming or loop.epoch_loop.restarting)
    loaders = loop._combined_loader.flattened if loop._combined_loader is not None else []
    if not is_later and all(
        isinstance(one, DataLoader) and not hasattr(one, "load_state_dict") for one in loaders
    ):
        iter(loop._data_fetcher)  # type: ignore[arg-type]


def restore_loaders(trainer: Trainer) -> None:
    """Restore the place of loaders with a state, such as torchdata's, where that is still to do.

    Why: Lightning does it when it sets up the data, which happens before it reads the checkpoint
    if `configure_optimizers` asks for the length of the run.
    """
    loop = trainer.fit_loop
    if loop._combined_loader is not None and loop._combined_loader_states_to_load:
        loop._combined_loader._load_state_dicts(loop._combined_loader_states_to_load)
        loop._combined_loader_states_to_load = []
        iter(loop._data_fetcher)  # type: ignore[arg-type]


def restart_validation(trainer: Trainer) -> None:
    """Begin a validation that was interrupted again with its first batch.

    Why: its metrics are over all batches, and Lightning would resume in the middle without them.
    Its totals would go on saying that a batch is missing, in every later checkpoint too.
    """
    validation = trainer.fit_loop.epoch_loop.val_loop
    if validation.restarted_mid_evaluation:
        validation.batch_progress.current.reset()
        total: Any = validation.batch_progress.total
        total.ready = total.started = total.processed = total.completed
