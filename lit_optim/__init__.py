"""Optimizers and learning-rate schedules for PyTorch Lightning, chosen by name.

    from lit_optim import AdamW, configure_optimizers

Nothing is imported before it is used, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lit_optim.moved_names import keep_old_names

__version__ = "0.1.0"
keep_old_names()


def __getattr__(name: str) -> Any:
    if name in ("configure_optimizers", "OptimizerMixin"):
        return getattr(import_module("lit_optim.lightning.configure"), name)
    return getattr(import_module("lit_optim.optimizers"), name)
