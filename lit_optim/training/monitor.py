"""Finds the monitored metrics of a trainer and their directions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from torchmetrics import Metric

from lit_optim.errors import UsageError, suggest
from lit_optim.lightning_classes import LightningModule, Trainer, is_a
from lit_optim.metric_names import Direction, infer_direction

#: Words in the names of validation metrics.
VALIDATED = re.compile(r"(^|[^a-z])(val|valid|validation|dev|eval)([^a-z]|$)", re.IGNORECASE)


def declared_monitor(module: LightningModule | type) -> tuple[str, Direction | None]:
    """Return the metric that a module declares, as `monitor = ("val/acc", "max")`.

    Returns:
        The name, by default `val/loss`, and the direction if the module declares it.
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
    """Fill in the metric and its direction, where the module declares them.

    Args:
        module: may declare a `monitor`.
        monitor: what was set; None: the declared one.
        mode: what was set; None: the declared one, if the metric is the declared one.
    """
    declared, direction = declared_monitor(module)
    monitor = monitor or declared
    return monitor, mode or (direction if monitor == declared else None)


def require_logged(trainer: Trainer, name: str, key: str = "monitor") -> bool:
    """Refuse a metric that should have been logged by now.

    Args:
        trainer: at the end of a validation, or after an update for a metric of training.
        name: of the metric.
        key: of the setting that names the metric.

    Returns:
        Whether it is logged; False if it may be logged later.

    Raises:
        UsageError: with the names of the logged metrics.
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
    """Whether all that can be known about the direction of a metric is known.

    A metric that is not logged yet may be logged by a torchmetrics class later.
    """
    classes = [m for m in trainer.lightning_module.modules() if isinstance(m, Metric)]
    return name in logged_names(trainer) or all(m.higher_is_better is None for m in classes)


def require_direction(trainer: Trainer, name: str, key: str = "mode") -> Direction:
    """Return the direction of a logged metric.

    Raises:
        UsageError: neither its torchmetrics class nor its name says it.
    """
    direction = find_direction(trainer, name)
    if direction is None:
        raise UsageError(
            f"{key}=min or {key}=max must be given: the name of {name} does not say whether low or "
            "high is better"
        )
    return direction


def find_direction(trainer: Trainer, name: str) -> Direction | None:
    """Return the direction of a logged metric, or None if it is unknown.

    It is `higher_is_better` of its torchmetrics class, or else follows from its name.
    """
    for metric in _metrics_of(trainer, name):
        if isinstance(metric.higher_is_better, bool):
            return "max" if metric.higher_is_better else "min"
    return infer_direction(name)


def set_direction(callback: Any, mode: Direction) -> None:
    """Set the direction of a callback that keeps the best value of a metric."""
    callback.mode = mode
    worst = torch.tensor(torch.inf if mode == "min" else -torch.inf)
    # keep a value that was restored from a checkpoint
    if is_a(callback, "callbacks.EarlyStopping") and torch.isinf(callback.best_score):
        callback.best_score = worst
    if is_a(callback, "callbacks.ModelCheckpoint") and not callback.best_k_models:
        callback.kth_value = worst


def _metrics_of(trainer: Trainer, name: str) -> Iterator[Metric]:
    """Yield the torchmetrics objects that are logged under a name, or attributes of that name."""
    for names, value in _logged_metrics(trainer):
        if name in names and isinstance(value, Metric):
            yield value
    plain = re.sub(r"\W+", "_", name)
    for path, module in trainer.lightning_module.named_modules():
        if isinstance(module, Metric) and re.sub(r"\W+", "_", path) == plain:
            yield module


def _logged_metrics(trainer: Trainer) -> Iterator[tuple[set[str], Any]]:
    """Yield the logged values, each with its names: with `_step` or `_epoch` and without."""
    loop = trainer.fit_loop.epoch_loop
    for results in (loop.val_loop._results, loop._results):
        for result in results.values():
            for on_step in (True, False):
                yield set(results._forked_name(result, on_step)), result.value


def validated_metrics(trainer: Trainer, monitor: str | None = None) -> dict[str, float]:
    """Return the value of every metric that the validation which ends now has logged.

    Args:
        trainer: at the end of a validation.
        monitor: a metric that is of interest even if it was logged by the training.
    """
    results = trainer.fit_loop.epoch_loop.val_loop._results
    names = [
        results._forked_name(result, on_step=False)[0]
        for result in results.values()
        if result.meta.on_epoch and not result.has_reset
    ]
    metrics = trainer.callback_metrics
    wanted = dict.fromkeys([*names, *([monitor] if monitor else [])])
    return {name: float(metrics[name]) for name in wanted if name in metrics}


def logged_names(trainer: Trainer) -> list[str]:
    """Return the names of all metrics so far.

    In the sanity check, Lightning's `callback_metrics` lacks those of several validation sets.
    """
    names = dict.fromkeys(trainer.callback_metrics)
    if trainer.sanity_checking:
        names |= dict.fromkeys(
            name for found, _ in _logged_metrics(trainer) for name in sorted(found)
        )
    return list(names)


def _may_come_later(trainer: Trainer, name: str) -> bool:
    """Whether a metric that the sanity check has not logged may be logged later."""
    metrics, module = logged_names(trainer), trainer.lightning_module
    users = [user for user in (module, *trainer.callbacks) if _is_user_code(type(user))]  # type: ignore[attr-defined]
    codes = [code for user in users for code in _code_of(type(user))]
    if not metrics and any("sanity_checking" in code.co_names for code in codes):
        return True  # the user's code logs nothing in the sanity check
    if VALIDATED.search(name):
        return False
    # a metric of training, unless it is a misspelled metric such as val_acc for val/acc
    last = re.split(r"[/_]", name)[-1]
    is_misspelled = any(re.split(r"[/_]", metric)[-1] == last for metric in metrics)
    return not is_misspelled or any(name in code.co_consts for code in codes)


def _is_user_code(kind: type) -> bool:
    return kind.__module__.split(".")[0] not in ("lightning", "pytorch_lightning", "lit_optim")


def _code_of(kind: type) -> Iterator[CodeType]:
    """Yield the code of the methods of a class and of those of its bases that are the user's."""
    for base in filter(_is_user_code, inspect.getmro(kind)):
        for value in vars(base).values():
            function: Callable[..., Any] | None = getattr(value, "fget", value)
            code = getattr(inspect.unwrap(function), "__code__", None) if function else None
            if isinstance(code, CodeType):
                yield code


def has_validation(trainer: Trainer) -> bool:
    """Whether this fit validates, before its first epoch."""
    if not trainer.enable_validation:
        return False
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.setup_data()  # Lightning does this in the first epoch that validates
    return any(loop.max_batches)
