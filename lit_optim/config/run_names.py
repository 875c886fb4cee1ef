"""The name at the end of a run's directory: the optimizer and the schedule that it trains with."""

from __future__ import annotations

from omegaconf import DictConfig


def name_run(_root_: DictConfig) -> str:
    """Such as `adamw_wsd`; of a branch `adamw_cooldown`, and where nothing is trained `test`.

    Args:
        _root_: a configuration that Hydra has composed, with Hydra's own part; OmegaConf passes it
            under this name.
    """
    choices = _root_.hydra.runtime.choices
    if _root_.get("train") is False:
        return "test"
    if _root_.get("branch_from") is not None:
        return f"{choices.optimizer}_cooldown"
    return f"{choices.optimizer}_{choices.scheduler}"
