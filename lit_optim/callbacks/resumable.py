"""Saves and restores what an interrupted run needs to continue bit for bit."""

from __future__ import annotations

import logging
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor

from lit_optim import __version__
from lit_optim.callbacks.unfinished import (
    are_gradients,
    count_unfinished,
    gather_from_ranks,
    has_several,
    is_alone,
    restore_gradients,
    unfinished_gradients,
)
from lit_optim.checkpoints.format import FORMAT, WRITTEN_BY, check_state, is_count
from lit_optim.checkpoints.plain import first_not_plain, join_path, keep_plain
from lit_optim.checkpoints.saved_paths import keep_own_paths
from lit_optim.errors import UsageError, first_line
from lit_optim.lightning_classes import Callback, LightningModule, Trainer, is_a
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.training.overrides import (
    fetch_after_random_states,
    fetch_again,
    restart_validation,
    restore_loaders,
    restore_loop,
)
from lit_optim.training.protocols import SkipsBatches

LOG = logging.getLogger("lit_optim")
#: What a checkpoint has of an update, if it is finished.
NOTHING: dict[str, Any] = {"gradients": {}, "ranks": [], "lost": 0}
#: What a checkpoint holds for a run that resumes.
STATE: dict[str, Callable[[Any], bool]] = {
    "batches": is_count,
    "stepped": lambda count: count is None or is_count(count),
    "turned": lambda turned: isinstance(turned, Mapping),
    "chance": lambda states: isinstance(states, Mapping),
    "gradients": are_gradients,
    "ranks": lambda ranks: isinstance(ranks, list) and all(map(_is_of_rank, ranks)),
    "lost": is_count,
}


def _is_of_rank(state: Any) -> bool:
    if not isinstance(state, Mapping) or not isinstance(state.get("chance"), Mapping):
        return False
    return are_gradients(state.get("gradients"))


class Resumable(Callback):
    """Adds to each checkpoint the random states, the place in the data and what was unfrozen.

    It saves the states of the random number generators of torch (CPU and this GPU, CUDA or MPS),
    numpy and Python, the number of batches of the epoch so far, and which parameters were frozen or
    unfrozen since the beginning of the run. A sampler that implements `SkipsBatches` continues the
    epoch at its next batch; any other loader begins the epoch again, with a warning.

    A checkpoint that is saved in the middle of an update, as the best one may be at a validation,
    also has the gradients so far. With several processes it has the random states and gradients of
    each, unless one of them saves it alone because an error has ended the others.

    Args:
        fresh: hyperparameters of groups that a resumed run takes from its configuration, not from
            the checkpoint.
        any_length: whether the schedule may have another length than before.
        keeps_length: whether it keeps the length that it had before.
    """

    def __init__(
        self, fresh: Sequence[str] = (), any_length: bool = False, keeps_length: bool = False
    ) -> None:
        self.fresh = fresh
        self.any_length, self.keeps_length = any_length, keeps_length
        self._loaded: dict[str, Any] | None = None
        self._has_random_states = False  # whether those of the loaded state are restored
        self._made: list[list[dict[str, Any]]] = []
        self._place: tuple[int, int] = (0, 0)
        self._stepped = 0  # batches that ended with a step, by which Lightning logs
        self._ended = False
        self._trained: dict[str, bool] = {}  # whether each parameter was trainable at the beginning
        self._toggled: dict[str, bool] = {}  # those for which that has changed since
        self._unfinished: dict[str, Any] = dict(NOTHING)

    def state_dict(self) -> dict[str, Any]:
        epoch, batches = self._place
        toggled = dict(self._toggled)
        return {
            "epoch": epoch, "batches": batches, "stepped": self._stepped, "turned": toggled,
            "chance": self._next_random_states(), **self._unfinished,
        }  # fmt: skip

    def _next_random_states(self) -> dict[str, Any]:
        """Return the random states at the next batch, where a resumed run restores them."""
        loaded: dict[str, Any] | None = self._loaded and self._loaded["chance"]
        return loaded or _random_states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check_state(state_dict, STATE)
        self._loaded, self._has_random_states = state_dict, False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        progress: Any = loop.batch_progress.current
        # a batch counts as done even if a hook at its end failed
        done = max(progress.completed, progress.processed)
        count = trainer.num_training_batches
        self._stepped = loop._batches_that_stepped
        if trainer.validating and not loop._should_accumulate():
            self._stepped += 1  # Lightning counts after the validation
        if self._loaded is not None:  # no batch has begun since the resume
            self._stepped = self._loaded.get("stepped", self._stepped)
        self._place = trainer.current_epoch, int(done % count) if count else 0
        if "loops" in checkpoint:
            loops = checkpoint["loops"]["fit_loop"]
            correct_progress(loops, count, is_in_validation(trainer))
            checkpoint["epoch"] = loops["epoch_progress"]["current"]["completed"]
            self._place = checkpoint["epoch"], self._place[1]
        self._toggled = {
            name: p.requires_grad
            for name, p in pl_module.named_parameters()
            if self._trained.get(name, p.requires_grad) != p.requires_grad
        }
        checkpoint[WRITTEN_BY] = {
            "format": FORMAT, "lit_optim": __version__, "torch": str(torch.__version__),
        }  # fmt: skip
        if "callbacks" in checkpoint:  # a checkpoint of the weights alone has none
            self._unfinished = self._find_unfinished(trainer, pl_module)
            checkpoint["callbacks"][self.state_key] = self.state_dict()
            self._unfinished = dict(NOTHING)

    def _find_unfinished(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Find the gradients of an update that is not finished, and what each process has."""
        if self._loaded is not None:  # it is restored at the next batch
            return {key: self._loaded.get(key, nothing) for key, nothing in NOTHING.items()}
        batches, several = count_unfinished(trainer, self._place[1]), has_several(trainer)
        if several and is_alone(trainer):
            return {**NOTHING, "lost": batches}
        chance = gather_from_ranks(self._next_random_states()) if several else []
        shared, by_rank = unfinished_gradients(module, several) if batches else ({}, [])
        by_rank = by_rank or [{} for _ in chance]
        ranks = [
            {"chance": states, "gradients": gradients}
            for states, gradients in zip(chance, by_rank, strict=True)
        ]
        return {"gradients": shared, "ranks": ranks, "lost": 0}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for saved in checkpoint.get("lr_schedulers", ()) if self.any_length else ():
            saved["total"] = None
        states = checkpoint.get("callbacks", {})
        keep_own_paths(trainer.callbacks, states, trainer.ckpt_path)  # type: ignore[attr-defined]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning would convert the module after it has loaded float64 weights into it
        if is_a(trainer.precision_plugin, "plugins.DoublePrecision"):
            trainer.precision_plugin.convert_module(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = False
        self._trained = {name: p.requires_grad for name, p in pl_module.named_parameters()}
        self._made = [[dict(g) for g in optimizer.param_groups] for optimizer in trainer.optimizers]
        for config in trainer.lr_scheduler_configs if self.keeps_length else ():
            if isinstance(config.scheduler, ScheduledLR):
                config.scheduler.horizon = "keep"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.checkpoint_callbacks:
            check_readable(trainer, pl_module)
        if self._loaded is None:
            return
        if (lost := self._loaded.get("lost", 0)) and trainer.is_global_zero:
            LOG.warning(
                f"resume: an error ended the run within an update, and the gradients of {lost} of "
                "its batches were lost with the other processes"
            )
        toggled = self._loaded.get("turned", {})
        for name, p in pl_module.named_parameters():
            p.requires_grad_(toggled.get(name, p.requires_grad))
        for optimizer, groups in zip(trainer.optimizers, self._made, strict=True):
            # a group that a callback added is not in the configuration
            for group, made in zip(optimizer.param_groups, groups, strict=False):
                group.update({key: made[key] for key in self._fresh_keys() if key in made})
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ScheduledLR):
                config.scheduler.refresh()
        restart_validation(trainer)
        batches = self._loaded["batches"]
        loader = trainer.train_dataloader
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, SkipsBatches):
            sampler.skip_batches(batches)
            if getattr(loader, "num_workers", 0) and batches:
                fetch_again(trainer)
        elif hasattr(sampler, "skip"):  # a user's, for an earlier version
            sampler.skip = batches  # type: ignore[union-attr]
        elif hasattr(loader, "load_state_dict"):
            restore_loaders(trainer)
        elif batches and trainer.is_global_zero:
            LOG.warning(
                f"resume: this loader cannot begin at batch {batches}; the epoch starts again, "
                "possibly in another order"
            )

    def _fresh_keys(self) -> list[str]:
        return [*self.fresh, *(["initial_lr"] if "lr" in self.fresh else [])]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None and not self._loaded["batches"]:
            self._has_random_states = False  # a validation that is repeated may have drawn some
            self._restore_own_random_states(trainer)
            fetch_after_random_states(trainer)

    def _restore_own_random_states(self, trainer: Trainer) -> None:
        if self._loaded is None or self._has_random_states:
            return
        ranks = self._loaded.get("ranks", [])
        is_alike = len(ranks) == trainer.world_size
        mine = ranks[trainer.global_rank] if is_alike else self._loaded
        # those of the others first, so that all processes refuse what is none
        for states in (*(ranks if is_alike else ()), mine):
            _restore_random_states(states["chance"])
        self._has_random_states = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._loaded is not None:
            self._restore_own_random_states(trainer)
            restore_loop(trainer, self._loaded.get("stepped"))
            by_rank = [of_rank["gradients"] for of_rank in self._loaded.get("ranks", [])]
            restore_gradients(pl_module, self._loaded.get("gradients", {}), by_rank, trainer)
            self._loaded = None


def correct_progress(loops: dict[str, Any], batches: float, in_validation: bool) -> None:
    """Correct the counters of Lightning's loops in a checkpoint, so that they match the weights.

    Lightning can resume from checkpoints that it writes itself: after a batch, a validation or an
    epoch. In between its counters are ahead of the weights: it would validate at other batches,
    consider the epoch complete, or skip a batch, a validation or an epoch. It also considers the
    epoch complete in which a run has ended, where a longer run has batches left.

    Args:
        loops: the state of the fit loop in a checkpoint.
        batches: in an epoch.
        in_validation: whether a validation is running.
    """
    epoch, batch = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
    total, current = batch["total"], batch["current"]
    if current["ready"] == current["started"] + 1 and current["started"] == current["completed"]:
        for count in (total, current):  # a batch that was fetched but not begun
            count["ready"] -= 1
        batch["is_last_batch"] = 0 < current["completed"] == batches
    if 0 < epoch["ready"] == epoch["processed"]:
        is_cut_short = current["completed"] and not batch["is_last_batch"]
        for count in loops["epoch_progress"].values():
            count["processed"] = count["completed"] = count["ready"] - int(is_cut_short)
        if not is_cut_short:  # between two epochs
            current.update(dict.fromkeys(current, 0))
            batch["is_last_batch"] = False
    if in_validation:
        done = loops["epoch_loop.val_loop.batch_progress"]["total"]
        done["processed"] = done["completed"]
        done["ready"] = done["started"] = done["completed"] + 1


def is_in_validation(trainer: Trainer) -> bool:
    """Whether a validation within a fit is running."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    if not trainer.validating or trainer.sanity_checking:
        return False
    return loop.batch_progress.current.completed < sum(loop.max_batches)


def check_readable(trainer: Trainer, module: LightningModule) -> None:
    """Check before the first update whether torch will be able to load the checkpoints.

    Hyperparameters that it could not load are left out, with a warning.

    Raises:
        UsageError: something that a resumed run needs is not a plain value.
    """
    left_out = []
    for owner in (module, getattr(trainer, "datamodule", None)):
        if owner is not None and owner.hparams:
            left_out += keep_plain(owner.hparams, ("hparams",))[1]
    if left_out and trainer.is_global_zero:
        names = ", ".join(f"{join_path(one.path)} ({one.kind.__name__})" for one in left_out)
        LOG.warning(
            f"checkpoints leave out {names}: not plain values, so torch could not load them; "
            "save_hyperparameters(ignore=[...]) leaves it out too"
        )
    error = first_not_plain(_saved_parts(trainer))
    if error is not None:
        raise UsageError(
            f"checkpoints could not be read back: {error}; keep plain values and tensors there"
        )


def _saved_parts(trainer: Trainer) -> Iterator[tuple[tuple[Any, ...], Callable[[], Any]]]:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        yield ("callbacks", callback.state_key), callback.state_dict
    for place, config in enumerate(trainer.lr_scheduler_configs):
        yield ("lr_schedulers", place), config.scheduler.state_dict
    for place, optimizer in enumerate(trainer.optimizers):
        for index, group in enumerate(optimizer.param_groups):
            plain = {key: value for key, value in group.items() if key != "params"}
            yield ("optimizer_states", place, "param_groups", index), partial(dict, plain)
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None:
        yield (type(datamodule).__qualname__,), datamodule.state_dict


def _random_states() -> dict[str, Any]:
    """Return the states of all random number generators, in plain containers and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = numpy.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        # a checkpoint of lists of a thousand numbers takes a millisecond longer
        "python": [version, _as_tensor(numbers), gauss],
        "numpy": [str(name), _as_tensor(numpy.asarray(keys).tolist()), *rest],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore_random_states(saved: Mapping[str, Any]) -> None:
    """Restore the states of all random number generators.

    Raises:
        UsageError: they are not such states.
    """
    try:
        _set_random_states(saved)
    except Exception as error:  # generators raise whatever the value at hand leads to
        raise UsageError(
            "the checkpoint has different random states from those that this program saves: "
            f"{first_line(error)}"
        ) from error


def _set_random_states(saved: Mapping[str, Any]) -> None:
    torch.set_rng_state(saved["torch"].cpu())
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(_as_list(numbers)), gauss))
    name, keys, *rest = saved["numpy"]
    keys = _as_list(keys)
    numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), *rest))
    if "cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"].cpu())
    if "mps" in saved and torch.backends.mps.is_available():
        torch.mps.set_rng_state(saved["mps"].cpu())


def _as_tensor(numbers: Sequence[int]) -> Tensor:
    # torch.tensor takes 5 times as long
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)


def _as_list(numbers: Any) -> Any:
    """The numbers of a tensor; earlier versions saved a list."""
    return numbers.tolist() if isinstance(numbers, Tensor) else numbers
