"""The metric that a run is judged by: filled in, and checked after the first validation."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from lit_optim.callbacks.monitor_check import MonitorCheck
from lit_optim.metric_names import Direction
from lit_optim.training.monitor import resolve_monitor


def declare_run_monitor(cfg: DictConfig, model_class: type) -> Direction | None:
    """Fill in the metric that the run is judged by, and its direction if that is known.

    A callback or schedule with another metric does not inherit this direction.

    Args:
        cfg: the configuration; changed.
        model_class: may declare a metric.

    Returns:
        The direction that was typed or declared; None: the metric's name decides.
    """
    with open_dict(cfg):
        cfg.monitor, cfg.mode = resolve_monitor(model_class, cfg.monitor, cfg.mode)
        mode: Direction | None = cfg.mode
        for node in (cfg.scheduler, *cfg.callbacks.values()):
            if node.get("monitor") not in (None, cfg.monitor) and _refers_to_setting(node, "mode"):
                node.mode = None
    return mode


def _refers_to_setting(node: DictConfig, key: str) -> bool:
    """Whether a value refers to the run's setting of the same name, as in `mode: ${mode}`."""
    return bool(OmegaConf.to_container(node, resolve=False).get(key) == f"${{{key}}}")  # type: ignore[union-attr]


def make_monitor_check(cfg: DictConfig, callbacks: Mapping[str, Callback]) -> MonitorCheck:
    """A callback that checks, after the first validation, the metrics that callbacks watch.

    Args:
        cfg: the configuration.
        callbacks: by their names in it; "" for the one that notes the run's own metric.
    """
    watched: dict[str, str] = {}
    undirected: list[Callback] = []
    mode_keys: dict[str, str] = {}
    for name, callback in callbacks.items():
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        own = monitor != cfg.monitor
        watched[monitor] = f"callbacks.{name}.monitor" if own else "monitor"
        mode_keys[monitor] = f"callbacks.{name}.mode" if own else "mode"
        given = OmegaConf.select(cfg, f"callbacks.{name}.mode") if name else cfg.mode
        if hasattr(callback, "mode") and given is None:
            undirected.append(callback)
    return MonitorCheck(watched, undirected, mode_keys)
