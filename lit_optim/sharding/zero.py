"""torch's ZeroRedundancyOptimizer, which makes an optimizer of a part of the parameters.

It fills its own defaults into each group, names and all, and then makes the optimizer of this
process from its share of each group. What was filled in must not look like a wish for that group:
the embeddings of a model would be stepped by the lr of its matrices.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lit_optim.errors import UsageError

ZERO = "torch.distributed.optim.zero_redundancy_optimizer"
FSDP2 = "; FSDP2 (fully_shard) shards its state"
#: Why an optimizer with a requirement cannot be made of the parameters of one process.
REFUSED = {
    "closure": ("evaluates the loss of all parameters within a step", ""),
    "one_lr": ("looks at all parameters at once", FSDP2),
    "train_eval": ("has train() and eval(), which would reach some parameters only", FSDP2),
}


def find_zero(optimizer: Optimizer) -> Any:
    """The ZeroRedundancyOptimizer that is calling the constructor or a method of an optimizer.

    It makes the optimizer itself, with arguments that do not say so: only the calls tell.
    """
    module = sys.modules.get(ZERO)
    if module is None:
        return None
    frame = inspect.currentframe()
    while frame is not None:
        # only its own frames: a look at the locals of others would keep alive what is in them
        if frame.f_globals is vars(module):
            caller = frame.f_locals.get("self")
            if isinstance(caller, module.ZeroRedundancyOptimizer) and caller is not optimizer:
                return caller
        frame = frame.f_back
    return None


def restore_group(zero: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """The share of a group as it was before its defaults and the names of others were filled in.

    Args:
        zero: the ZeroRedundancyOptimizer.
        group: the share.
    """
    kept = {key: value for key, value in group.items() if not _is_filled(zero, key, value)}
    if "param_names" in group:
        names = {
            id(p): name
            for other in zero.param_groups
            for p, name in zip(other["params"], other.get("param_names", ()), strict=False)
        }
        kept["param_names"] = [names[id(p)] for p in group["params"]]
    return kept


def follow_group(zero: Any, place: int, group: dict[str, Any]) -> None:
    """Write the hyperparameters of a share into the whole group, where others were filled in.

    The share has the names of all parameters of the group from then on, since torch copies all
    keys from the one to the other and back in each step.
    """
    whole = zero.param_groups[place]
    for key in whole.keys() - group.keys():
        del whole[key]
    if "param_names" in whole:
        group["param_names"] = whole["param_names"]
    whole.update({key: value for key, value in group.items() if key != "params"})


def check_added_group(optimizer: Optimizer) -> None:
    """Refuse a group that is added later, to an optimizer whose groups differ in kind.

    Raises:
        UsageError: ZeroRedundancyOptimizer is adding it.
    """
    zero = find_zero(optimizer)
    if zero is not None and zero.initialized:
        raise UsageError(
            f"{type(optimizer).__name__} within ZeroRedundancyOptimizer takes its groups when it "
            "is made: what it fills into one that is added later looks like settings of that group"
        )


def check_under_zero(name: str, requirements: tuple[str, ...]) -> None:
    """Refuse an optimizer that must not be made of a part of the parameters.

    Args:
        name: of the optimizer, for the message.
        requirements: its own; see `lit_optim.requirements`.

    Raises:
        UsageError: naming it.
    """
    for requirement, (reason, remedy) in REFUSED.items():
        if requirement in requirements:
            raise UsageError(
                f"{name} {reason}, but ZeroRedundancyOptimizer makes one in each process of some "
                f"parameters{remedy}"
            )


def _is_filled(zero: Any, key: str, value: Any) -> bool:
    """Whether a value is the very object that is its default; torch fills in no copies."""
    return key in zero.defaults and value is zero.defaults[key]
