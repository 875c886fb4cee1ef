"""What a checkpoint must hold so that training can resume from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_optim import __version__
from lit_optim.errors import UsageError

#: Of what we keep in a checkpoint; another number where an older one cannot be gone on with.
FORMAT = 1
#: Where a checkpoint says who has written it.
WRITTEN_BY = "written_by"
#: What training goes on with, and its kind; a file of weights alone has only the first.
PARTS: dict[str, type] = {
    "state_dict": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": Mapping,
    "global_step": int,
}


def check_written(saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks what training goes on with, or where it means something else.

    Raises:
        UsageError: naming what it lacks, or who has written it.
    """
    for part, kind in PARTS.items():
        if not isinstance(saved, Mapping) or not isinstance(saved.get(part), kind):
            raise UsageError(f"the checkpoint has no {part}: training cannot go on with it")
    by = saved.get(WRITTEN_BY, {"format": 1})  # as it was before it was written down
    by = by if isinstance(by, Mapping) else {}
    if by.get("format") != FORMAT:
        raise UsageError(
            f"the checkpoint was written by lit_optim {by.get('lit_optim')} with torch "
            f"{by.get('torch')} in format {by.get('format')}, and lit_optim {__version__} reads "
            f"format {FORMAT}: go on with the version that wrote it"
        )
