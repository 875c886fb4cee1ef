"""Says which parameters belong to no optimizer, or to several."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from lit_optim.lightning_classes import LightningModule, Trainer
from lit_optim.training.overrides import FitCallback

LOG = logging.getLogger("lit_optim")

#: The most names in a message; the others are counted.
MAX_NAMES = 4


class ParameterCoverage(FitCallback):
    """Warns of trainable parameters that no optimizer updates, and of those that several update.

    Both may be intended, but are more often a submodule that was forgotten or named twice.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        owners: dict[Tensor, int] = {}
        for optimizer in trainer.optimizers:
            for p in {p for group in optimizer.param_groups for p in group["params"]}:
                owners[p] = owners.get(p, 0) + 1
        trainable = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        left = [name for name, p in trainable if p not in owners]
        shared = [name for name, p in trainable if owners.get(p, 0) > 1]
        if left:
            LOG.warning("no optimizer updates %s: not trained", _enumerate(left))
        if shared:
            LOG.warning("several optimizers have %s: each of them updates it", _enumerate(shared))


def _enumerate(names: Sequence[str]) -> str:
    """Describe the parameters with these names in a few words."""
    listed = ", ".join(names[:MAX_NAMES])
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    what = "parameter" if len(names) == 1 else "parameters"
    return f"the {what} {listed}{more}"
