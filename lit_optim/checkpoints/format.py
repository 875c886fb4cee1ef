"""What a checkpoint must hold so that training can resume from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lit_optim import __version__
from lit_optim.errors import UsageError, show

#: The version of the content of a checkpoint; it changes if older ones cannot be resumed.
FORMAT = 1
#: The key under which a checkpoint names the version that wrote it.
WRITTEN_BY = "written_by"
#: The parts that a resumed run needs, with their types; a file of weights has only the first.
PARTS: dict[str, type] = {
    "state_dict": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": Mapping,
    "global_step": int,
}
#: What a param group has of its lr.
LRS = ("lr", "initial_lr")


def check_written(saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint from which training cannot resume.

    Raises:
        UsageError: naming the missing part, or the version that wrote it in another format.
    """
    for part, kind in PARTS.items():
        if not isinstance(saved, Mapping) or not isinstance(saved.get(part), kind):
            raise UsageError(f"the checkpoint has no {part}, so training cannot resume from it")
    if not isinstance(saved.get("callbacks", {}), Mapping):
        raise UsageError("the checkpoint has no states of callbacks by their names")
    for state in saved["optimizer_states"]:
        groups = state.get("param_groups") if isinstance(state, Mapping) else None
        if not all(map(_has_numbers, groups if isinstance(groups, list) else ())):
            raise UsageError("the checkpoint has an optimizer whose lr is not a number")
    by = saved.get(WRITTEN_BY, {"format": 1})  # older checkpoints have no entry
    by = by if isinstance(by, Mapping) else {}
    if type(by.get("format")) is not int or by["format"] != FORMAT:
        raise UsageError(
            f"the checkpoint was written by lit_optim {by.get('lit_optim')} with torch "
            f"{by.get('torch')} in format {by.get('format')}, and lit_optim {__version__} reads "
            f"format {FORMAT}: resume with the version that wrote it"
        )


def _has_numbers(group: Any) -> bool:
    lrs = [group.get(key, 0.0) for key in LRS] if isinstance(group, Mapping) else []
    return all(is_number(lr) or _is_real_scalar(lr) for lr in lrs)


def _is_real_scalar(value: Any) -> bool:
    is_one = isinstance(value, Tensor) and value.numel() == 1
    return is_one and not value.is_complex() and not value.is_sparse


def check_state(state: Any, kinds: Mapping[str, Callable[[Any], bool]]) -> None:
    """Check what a checkpoint, of anybody, holds for a callback.

    Args:
        state: of the callback.
        kinds: of each entry that it may have, whether a value fits.

    Raises:
        UsageError: an entry is of another kind.
    """
    for name, fits in kinds.items():
        if not isinstance(state, Mapping) or (name in state and not fits(state[name])):
            value = state[name] if isinstance(state, Mapping) else state
            raise UsageError(f"the checkpoint cannot be resumed: {name} is {show(value)}")


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, float) or (is_whole and abs(value) < 1 << 63)


def is_count(value: Any) -> bool:
    """Whether it is a whole number of batches or the like."""
    return is_number(value) and isinstance(value, int) and value >= 0


def are_numbers(value: Any) -> bool:
    """Whether it has a number for each name."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and is_number(one) for name, one in value.items()
    )
