"""The metric that judges a run, as far as it is known before the run."""

from __future__ import annotations

from typing import cast

from omegaconf import DictConfig

from lit_optim.config.targets import TARGET
from lit_optim.metric_names import Direction, infer_direction
from lit_optim.signatures import read_attribute

#: For a model that declares none.
USUAL = "val/loss"


def find_metric(cfg: DictConfig) -> str:
    """The metric that judges a run: typed, declared by the model's class, or the usual one."""
    return str(cfg.monitor or _declared(cfg)[0])


def find_direction(cfg: DictConfig) -> Direction | None:
    """Whether the metric that judges a run is best when it is low.

    It is typed, declared by the model's class, or inferred from the metric's name; None: a
    torchmetrics class may decide it in the run.
    """
    name, direction = _declared(cfg)
    monitor = cfg.monitor or name
    if cfg.mode or (direction and monitor == name):
        return cast(Direction, cfg.mode or direction)
    return infer_direction(monitor)


def _declared(cfg: DictConfig) -> tuple[str, str | None]:
    try:
        declared = read_attribute(str(cfg.model[TARGET]), "monitor")
    except ValueError:  # computed by code
        declared = None
    name, direction = declared if isinstance(declared, tuple) else (declared or USUAL, None)
    return name, direction
