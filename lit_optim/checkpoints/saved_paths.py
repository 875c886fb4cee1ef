"""The paths in the state of Lightning's ModelCheckpoint, which a checkpoint may have from anywhere.

Lightning removes the files at these paths, or whole directories, once it has written better ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lit_optim.lightning_classes import Callback, is_a

SINGLE = ("best_model_path", "kth_best_model_path", "last_model_path")
#: The best checkpoints with their scores.
SCORES = "best_k_models"


def keep_own_paths(
    callbacks: Iterable[Callback], states: Mapping[str, Any], loaded: str | os.PathLike[str] | None
) -> None:
    """Let the states of all `ModelCheckpoint`s name files in their own directories only.

    Where the directory has been moved since, its files are found by their names, so that the best
    score so far still counts. A path to anything else is forgotten.

    Args:
        callbacks: of the trainer.
        states: by the key of the callback; changed.
        loaded: the checkpoint that they are from. `best_model_path` may be a file beside it: that
            of a branch is the best so far.
    """
    beside = None if loaded is None else Path(loaded).parent
    for callback in callbacks:
        state = states.get(callback.state_key)
        if is_a(callback, "callbacks.ModelCheckpoint") and isinstance(state, dict):
            _keep_own(state, callback.dirpath, beside)


def _keep_own(state: dict[str, Any], directory: Any, beside: Path | None) -> None:
    before, best = state.get("dirpath"), state.get(SINGLE[0])
    own = {key: _find(state.get(key), before, directory) for key in SINGLE}
    scores = state.get(SCORES)
    scores = scores if isinstance(scores, Mapping) else {}
    found = {_find(path, before, directory): score for path, score in scores.items()}
    state |= own | {SCORES: {path: score for path, score in found.items() if path}}
    is_moved = before != directory
    if is_moved and state[SCORES]:
        state["dirpath"] = directory
    elif is_moved and not own[SINGLE[0]] and beside is not None and isinstance(best, str):
        file = beside / os.path.basename(best)
        state[SINGLE[0]] = str(file) if best and file.is_file() else ""


def _find(path: Any, before: Any, directory: Any) -> str:
    """Where a file of the directory `before` is in `directory`; empty if it is in neither."""
    if not (isinstance(path, str) and isinstance(before, str) and isinstance(directory, str)):
        return ""
    try:
        name = os.path.relpath(path, before)
    except ValueError:  # on another drive
        return ""
    if not path or "\0" in path or name.split(os.sep)[0] in (os.curdir, os.pardir):
        return ""
    place = os.path.join(directory, name)
    return place if before == directory or os.path.isfile(place) else ""
