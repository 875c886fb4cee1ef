"""What a checkpoint must hold so that training can resume from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_optim import __version__
from lit_optim.errors import UsageError

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
        if not all(map(_has_number, groups if isinstance(groups, list) else ())):
            raise UsageError("the checkpoint has an optimizer whose lr is not a number")
    by = saved.get(WRITTEN_BY, {"format": 1})  # older checkpoints have no entry
    by = by if isinstance(by, Mapping) else {}
    if by.get("format") != FORMAT:
        raise UsageError(
            f"the checkpoint was written by lit_optim {by.get('lit_optim')} with torch "
            f"{by.get('torch')} in format {by.get('format')}, and lit_optim {__version__} reads "
            f"format {FORMAT}: resume with the version that wrote it"
        )


def _has_number(group: Any) -> bool:
    lr = group.get("lr", 0.0) if isinstance(group, Mapping) else 0.0
    return isinstance(lr, int | float | Tensor)
