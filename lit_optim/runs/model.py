"""The model of a run, and how it gets its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, open_dict

from lit_optim.config.targets import (
    TARGET,
    check_arguments,
    check_required,
    locate,
    make_factory,
)
from lit_optim.errors import UsageError, first_line
from lit_optim.lightning.configure import OptimizerMixin, configure_optimizers
from lit_optim.lightning.serving import serve
from lit_optim.making import make_optimizer
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.param_groups import read_rule_settings
from lit_optim.runs.classes import to_dict
from lit_optim.signatures import Signature, inspect_signature
from lit_optim.wrappers import Wrapped

#: What a model's constructor may take, instead of being given a configure_optimizers.
INJECTED = ("optimizer", "scheduler", "param_groups", "lr_rule", "schedules")
#: The start of the target of lit_optim's own models.
TASKS_PREFIX = "lit_optim.tasks."


def build_model(
    cfg: DictConfig, model_class: type, data: LightningDataModule, injected: Mapping[str, Any]
) -> LightningModule:
    """Build the model; what it requires and the configuration lacks comes from the data.

    Args:
        cfg: the configuration; its `model` is completed.
        model_class: the class of the model.
        data: may have attributes such as `classes`.
        injected: by the names in `INJECTED`.

    Raises:
        UsageError: an argument is missing or wrong.
    """
    signature = inspect_signature(model_class)
    node = cfg.model
    more = {name: injected[name] for name in INJECTED if name in signature.parameters}
    for name, parameter in signature.parameters.items():
        if parameter.required and node.get(name) is None and name not in more:
            value = getattr(data, name, None)
            if value is not None and not callable(value):
                more[name] = value
    arguments = to_dict(node) | {
        name: value for name, value in more.items() if name not in INJECTED
    }
    check_required("model", arguments, signature, given=set(more))
    check_arguments("model", arguments, signature)
    with open_dict(node):  # so that the run's config.yaml has it too
        node.update({k: v for k, v in arguments.items() if isinstance(v, int | float | str | bool)})
    make = make_factory(node)
    try:
        model: LightningModule = make(**more)
    except UsageError:
        raise
    except (RuntimeError, OverflowError, TypeError, ValueError, MemoryError) as error:
        if not _is_shipped(node):
            raise  # the user's own code: a traceback says more
        given = ", ".join(f"model.{name}={value!r}" for name, value in arguments.items()
                          if name != TARGET)  # fmt: skip
        raise UsageError(f"the model cannot be built ({first_line(error)}): {given}") from error
    return model


def attach_optimizer(
    model: LightningModule, injected: Mapping[str, Any], signature: Signature
) -> None:
    """Give a model its optimizer: by the mixin's attributes, or as its configure_optimizers.

    Args:
        model: changed.
        injected: by the names in `INJECTED`.
        signature: of the model's class.

    Raises:
        UsageError: the model has a configure_optimizers of its own that ignores them.
    """
    takes_optimizer = {"optimizer", "scheduler"} <= signature.parameters.keys()
    if isinstance(model, OptimizerMixin):
        for name in INJECTED:
            setattr(model, name, injected[name])
    elif is_overridden("configure_optimizers", model) and takes_optimizer:
        _serve(model, injected)  # its constructor got them
    elif is_overridden("configure_optimizers", model):
        raise UsageError(
            f"{type(model).__name__} has a configure_optimizers of its own, so optimizer and "
            "scheduler would have no effect; remove it, or use lit_optim.OptimizerMixin"
        )
    else:
        attached: Any = partial(configure_optimizers, model, **injected)
        model.configure_optimizers = attached  # type: ignore[method-assign]


def _serve(model: LightningModule, injected: Mapping[str, Any]) -> None:
    """Wrap the model's own configure_optimizers, so that what it builds fits this run."""
    more = {name: injected[name] for name in ("lr_rule", "schedules")}
    own = model.configure_optimizers
    served: Any = partial(serve, model, own, injected["scheduler"], injected["param_groups"], more)
    model.configure_optimizers = served  # type: ignore[method-assign]


def try_optimizer(make: Wrapped, cfg: DictConfig) -> None:
    """Build the optimizer for one small parameter, so that its own checks come before all else.

    Args:
        make: makes the optimizer of parameter groups.
        cfg: the configuration.

    Raises:
        UsageError: the optimizer refuses its arguments, or those of a rule.
    """
    rules = read_rule_settings(to_dict(cfg.param_groups).get("rules") or [])
    # a model of the user's own may have bfloat16 parameters at any precision
    low = cfg.trainer.get("precision") == "bf16-true" or not _is_shipped(cfg.model)
    masters = [{"master": cfg.optimizer.get("master")} | settings for settings in ({}, *rules)]
    dtypes = [torch.bfloat16 if low and one["master"] == "split" else None for one in masters]
    trials = [_trial_group(*one) for one in zip(({}, *rules), dtypes, strict=True)]
    own = {"roles": None} if "roles" in cfg.optimizer else {}
    try:
        make_optimizer(partial(make, **own), trials)
    except UsageError:
        if not rules or issubclass(locate("optimizer", cfg.optimizer[TARGET]), OptimizerBase):
            raise
        make_optimizer(make, trials[1:])  # its class requires keys that the rules set


def _is_shipped(node: DictConfig) -> bool:
    """Whether a model is one of lit_optim's own."""
    return str(node[TARGET]).startswith(TASKS_PREFIX)


def _trial_group(settings: dict[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """A group of one small hidden matrix, which can be split as its settings say."""
    split = settings.get("split")
    size = split if type(split) is int and split > 0 else 2
    matrix = torch.nn.Parameter(torch.zeros(size, size, dtype=dtype))
    return {"params": [matrix], "param_names": ["weight"], "role": "hidden"} | settings


def has_lr(model: LightningModule) -> bool:
    """Whether a module has an attribute or hyperparameter where LearningRateFinder looks."""
    return any(
        hasattr(model, name) or name in getattr(model, "hparams", {})
        for name in ("lr", "learning_rate")
    )
