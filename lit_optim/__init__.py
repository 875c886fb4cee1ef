"""Optimizers and learning-rate schedules for PyTorch, chosen by name.

    from lit_optim import AdamW, Muon, Ema, param_groups, schedule, schedules

Nothing is imported before it is used, so that the command line answers before torch is loaded.
Type checkers and editors read `__init__.pyi`, which scripts/stubs.py writes.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from lit_optim.lazy_names import explain_misspelt_imports, look_up_lazily
from lit_optim.moved_names import keep_old_names

__version__ = "0.1.0"

# hydra-zen locates the callable package `param_groups` as lit_optim.lit_optim.param_groups
lit_optim = sys.modules[__name__]

#: What is here besides the optimizers, which are found by their files: each name with its module.
_PLACES = {
    "Ema": "lit_optim.wrappers.ema",
    "LitOptimCLI": "lit_optim.lightning.cli",
    "Lookahead": "lit_optim.wrappers.lookahead",
    "OptimizerMixin": "lit_optim.lightning.configure",
    "Sam": "lit_optim.wrappers.sam",
    "Schedule": "lit_optim.schedules.core",
    "ScheduledLR": "lit_optim.schedules.adapter",
    "UsageError": "lit_optim.errors",
    "configure_optimizers": "lit_optim.lightning.configure",
    "hf": "lit_optim.hf",
    "lr_schedulers": "lit_optim.lr_schedulers",
    "param_groups": "lit_optim.param_groups",
    "release_gradients": "lit_optim.release",
    "schedule": "lit_optim.schedules.scheduling",
    "schedules": "lit_optim.schedules",
}


def _find_places() -> dict[str, str]:
    from lit_optim.optimizers import class_places

    return {**class_places(), **_PLACES}


def _is_listed(place: str) -> bool:
    if place.startswith("lit_optim.optimizers."):
        from lit_optim.optimizers import is_available

        return is_available(place)
    if not place.startswith("lit_optim.lightning."):
        return True
    return any(find_spec(package) for package in ("lightning", "pytorch_lightning"))


__getattr__, __dir__ = look_up_lazily(__name__, _find_places, _is_listed)
keep_old_names()
explain_misspelt_imports()
