"""The groups that other Hydra apps share, and how they become those of this app.

Other apps take `optimizer`, `scheduler`, `param_groups` and `wrapper` from `pkg://lit_optim.hydra`.
So the files of these groups refer to nothing outside of themselves. What they leave open is decided
here: the metric of the run, and the param groups that suit an optimizer.
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lit_optim.config.origin import is_typed
from lit_optim.config.places import PARTIAL, conf_dir, groups, mapping_of
from lit_optim.signatures import read_attribute

SHARED_GROUPS = ("optimizer", "scheduler", "param_groups", "wrapper")
PARAM_GROUPS = "param_groups"


def adapt_shared_groups(cfg: DictConfig, hydra: DictConfig) -> None:
    """Complete what the files of the shared groups leave to the app.

    Args:
        cfg: a configuration that Hydra has composed; changed.
        hydra: Hydra's own part of it; changed.
    """
    with read_write(cfg), open_dict(cfg):
        for group in SHARED_GROUPS:
            node = cfg.get(group)
            if isinstance(node, DictConfig) and not is_typed(f"{group}.{PARTIAL}", hydra):
                node.pop(PARTIAL, None)
        _refer_to_monitor(cfg.get("scheduler"))
    _choose_param_groups(cfg, hydra)


def _refer_to_monitor(scheduler: object) -> None:
    """Let a schedule that follows a metric follow that of the run, unless it names another one."""
    if not isinstance(scheduler, DictConfig) or "monitor" not in scheduler:
        return
    for key in ("monitor", "mode"):
        if not OmegaConf.is_interpolation(scheduler, key) and scheduler.get(key) is None:
            scheduler[key] = f"${{{key}}}"


def _choose_param_groups(cfg: DictConfig, hydra: DictConfig) -> None:
    """Choose the param groups that suit the optimizer, unless others than the default are chosen.

    A class names the choice as `default_groups`.
    """
    optimizer, choices = cfg.get("optimizer"), hydra.runtime.choices
    target = optimizer.get("_target_") if isinstance(optimizer, DictConfig) else None
    if not isinstance(target, str) or not target.startswith("lit_optim."):
        return
    suited = read_attribute(target, "default_groups")
    if suited is None or is_typed(PARAM_GROUPS, hydra):
        return
    if choices.get(PARAM_GROUPS) != _default_choice():
        return
    node = mapping_of(groups()[PARAM_GROUPS][suited])
    del node[PARTIAL]
    with read_write(cfg), open_dict(cfg):
        cfg[PARAM_GROUPS] = node
    with read_write(hydra), open_dict(hydra):
        choices[PARAM_GROUPS] = suited


def _default_choice() -> object:
    """The param groups of train.yaml."""
    defaults = mapping_of(conf_dir() / "train.yaml")["defaults"]
    return next(entry[PARAM_GROUPS] for entry in defaults if PARAM_GROUPS in entry)
