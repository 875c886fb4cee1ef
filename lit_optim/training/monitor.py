"""The metrics that something depends on: whether they are logged, and which way is better."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torchmetrics import Metric

from lit_optim.errors import UsageError, suggest
from lit_optim.metric_names import Direction, infer_direction

#: Words in the name of a metric that a validation logs.
VALIDATED = re.compile(r"(^|[^a-z])(val|valid|validation|dev|eval)([^a-z]|$)", re.IGNORECASE)


def declared_monitor(module: LightningModule | type) -> tuple[str, Direction | None]:
    """The metric that a module declares it is judged by, `monitor = ("val/acc", "max")`.

    Returns:
        Its name, by default `val/loss`, and its direction where that is declared.
    """
    match getattr(module, "monitor", None):
        case (str(name), "min" | "max" as mode):
            return name, mode
        case str(name) if name:
            return name, None
    return "val/loss", None


def resolve_monitor(
    module: LightningModule | type, monitor: str | None, mode: Direction | None
) -> tuple[str, Direction | None]:
    """Fill in the metric and its direction, as far as the module declares them.

    Args:
        module: may declare a `monitor`.
        monitor: what was set; None: the declared one.
        mode: what was set; None: the declared one, if the metric is the declared one.
    """
    declared, direction = declared_monitor(module)
    monitor = monitor or declared
    return monitor, mode or (direction if monitor == declared else None)


def require_logged(trainer: Trainer, name: str, key: str = "monitor") -> bool:
    """Refuse a metric that has not been logged when it should have been.

    Args:
        trainer: at the end of a validation, or where a metric of training should be there.
        name: of the metric.
        key: of the setting that names it.

    Returns:
        Whether it is logged; False where it may come later.

    Raises:
        UsageError: with the names that are logged.
    """
    metrics = logged_names(trainer)
    if name in metrics:
        return True
    if trainer.sanity_checking and _may_come_later(trainer, name):
        return False
    near = suggest(name, metrics)
    known = f"logged: {', '.join(metrics)}; choose one with {key}=..." if metrics else (
        "nothing is logged there; call self.log in validation_step"
    )  # fmt: skip
    raise UsageError(f"{key}={name} is not logged{near} ({known})")


def is_settled(trainer: Trainer, name: str) -> bool:
    """Whether more will not be known of the direction of a metric than now.

    One that is not logged yet may still be logged by a torchmetrics class.
    """
    classes = [m for m in trainer.lightning_module.modules() if isinstance(m, Metric)]
    return name in logged_names(trainer) or all(m.higher_is_better is None for m in classes)


def require_direction(trainer: Trainer, name: str, key: str = "mode") -> Direction:
    """Whether a logged metric is best when low or high.

    Raises:
        UsageError: neither a torchmetrics class nor its name says so.
    """
    direction = find_direction(trainer, name)
    if direction is None:
        raise UsageError(
            f"{key}=min or {key}=max must be given: whether {name} is best low or high cannot be "
            "told by its name"
        )
    return direction


def find_direction(trainer: Trainer, name: str) -> Direction | None:
    """Whether a logged metric is best when low or high, if that can be known.

    A torchmetrics class says so itself, by `higher_is_better`; else the name does.
    """
    for metric in _metrics_of(trainer, name):
        if isinstance(metric.higher_is_better, bool):
            return "max" if metric.higher_is_better else "min"
    return infer_direction(name)


def set_direction(callback: Any, mode: Direction) -> None:
    """Have a callback that keeps the best of a metric look for the lowest or the highest."""
    callback.mode = mode
    worst = torch.tensor(torch.inf if mode == "min" else -torch.inf)
    # what has been restored from a checkpoint stays
    if isinstance(callback, EarlyStopping) and torch.isinf(callback.best_score):
        callback.best_score = worst
    if isinstance(callback, ModelCheckpoint) and not callback.best_k_models:
        callback.kth_value = worst


def _metrics_of(trainer: Trainer, name: str) -> Iterator[Metric]:
    """The torchmetrics objects that are logged under this name, or are attributes of this name."""
    for names, value in _logged(trainer):
        if name in names and isinstance(value, Metric):
            yield value
    plain = re.sub(r"\W+", "_", name)
    for path, module in trainer.lightning_module.named_modules():
        if isinstance(module, Metric) and re.sub(r"\W+", "_", path) == plain:
            yield module


def _logged(trainer: Trainer) -> Iterator[tuple[set[str], Any]]:
    """What the loops have logged, each under its names: with `_step` or `_epoch` or without."""
    loop = trainer.fit_loop.epoch_loop
    for results in (loop.val_loop._results, loop._results):
        for result in results.values():
            for on_step in (True, False):
                yield set(results._forked_name(result, on_step)), result.value


def logged_names(trainer: Trainer) -> list[str]:
    """The names of all metrics so far.

    Of several validation sets Lightning's `callback_metrics` has none before training.
    """
    names = dict.fromkeys(trainer.callback_metrics)
    if trainer.sanity_checking:
        names |= dict.fromkeys(name for found, _ in _logged(trainer) for name in sorted(found))
    return list(names)


def _may_come_later(trainer: Trainer, name: str) -> bool:
    """Whether a metric that the validation before training has not logged may still be logged."""
    metrics, module = logged_names(trainer), trainer.lightning_module
    users = [user for user in (module, *trainer.callbacks) if _is_users(type(user))]  # type: ignore[attr-defined]
    codes = [code for user in users for code in _code_of(type(user))]
    if not metrics and any("sanity_checking" in code.co_names for code in codes):
        return True  # it logs nothing then
    if VALIDATED.search(name):
        return False
    # a metric of training; but not what is only written otherwise here, as val_acc is
    last = re.split(r"[/_]", name)[-1]
    meant = any(re.split(r"[/_]", metric)[-1] == last for metric in metrics)
    return not meant or any(name in code.co_consts for code in codes)


def _is_users(kind: type) -> bool:
    return kind.__module__.split(".")[0] not in ("lightning", "pytorch_lightning", "lit_optim")


def _code_of(kind: type) -> Iterator[CodeType]:
    """The code of the methods of a class and of its bases that are the user's own."""
    for base in filter(_is_users, inspect.getmro(kind)):
        for value in vars(base).values():
            function: Callable[..., Any] | None = getattr(value, "fget", value)
            code = getattr(inspect.unwrap(function), "__code__", None) if function else None
            if isinstance(code, CodeType):
                yield code


def has_validation(trainer: Trainer) -> bool:
    """Whether this fit validates at all, told before its first epoch."""
    if not trainer.enable_validation:
        return False
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.setup_data()  # Lightning does it as late as in the first epoch that validates
    return any(loop.max_batches)
