"""Compares the end of a run that was interrupted with that of one that was not, for `chaos.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lit_optim.checkpoints.files import find_damage

#: Files that a run may have more or fewer of than an undisturbed one.
VARYING = ("events.out.tfevents", "previous.ckpt", ".lock")
#: What a result says of the time and the place.
OF_A_START = ("seconds", "run_dir")


def newest_steps(place: Path) -> dict[str, int]:
    """The updates that the newest whole checkpoint of each run has seen."""
    found: dict[str, int] = {}
    for path in [*place.glob("it/**/last.ckpt"), *place.glob("it/**/previous.ckpt")]:
        if find_damage(path) is None:
            step = int(torch.load(path, map_location="meta", weights_only=True)["global_step"])
            name = str(path.parent)
            found[name] = max(step, found.get(name, 0))
    return found


def damages(place: Path) -> Iterator[str]:
    """What is there and cannot be read."""
    for path in sorted(place.glob("it/**/*")):
        if path.suffix == ".ckpt" and not path.name.startswith("."):
            damage = find_damage(path)
            if damage is not None:
                yield f"{path.name} {damage}"
        elif path.suffix == ".json":
            try:
                json.loads(path.read_text())
            except ValueError as error:
                yield f"{path.name}: {error}"


def leftovers(directory: Path) -> list[str]:
    """Temporary files."""
    hidden = [path.name for path in directory.rglob("*") if "tmp" in path.suffix]
    return hidden


def find_differences(whole: Path, parts: Path, could_not_write: bool) -> Iterator[str]:
    """In what two directories of a run, or of a sweep, differ."""
    runs = sorted(path.parent.relative_to(whole) for path in whole.rglob("result.json"))
    others = sorted(path.parent.relative_to(parts) for path in parts.rglob("result.json"))
    if runs != others:
        yield f"runs: {[*map(str, runs)]}, {[*map(str, others)]}"
        return
    for run in runs:
        yield from _compare_runs(whole / run, parts / run, could_not_write)


def _compare_runs(whole: Path, parts: Path, could_not_write: bool) -> Iterator[str]:
    one, other = (json.loads((place / "result.json").read_text()) for place in (whole, parts))
    for key in one:
        if key not in OF_A_START and not same(one[key], other.get(key)):
            yield f"result {key}: {one[key]}, {other.get(key)}"
    if could_not_write:
        yield from check_best(parts)
    for name in ("last.ckpt",) if could_not_write else ("last.ckpt", "best.ckpt"):
        paths = [place / "checkpoints" / name for place in (whole, parts)]
        if paths[0].exists() != paths[1].exists():
            yield f"{name}: exists {paths[0].exists()}, {paths[1].exists()}"
        elif paths[0].exists():
            saved = [torch.load(path, weights_only=True) for path in paths]
            for key in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
                if not same(saved[0][key], saved[1][key]):
                    yield f"{name} {key}"
    rows = [_history(place) for place in (whole, parts)]
    if could_not_write:  # what could not be written before a kill is not there
        rows = [[row for row in rows[0] if row in rows[1]], rows[1]]
    if rows[0] != rows[1]:
        yield f"history: {rows[0]}, {rows[1]}"
    names = [_names(place) for place in (whole, parts)]
    if names[0] != names[1]:
        yield f"files: only {sorted(names[0] - names[1])}, {sorted(names[1] - names[0])}"


def check_best(place: Path) -> Iterator[str]:
    """What is wrong with a best checkpoint, if another one may have been the best to be written."""
    path = place / "checkpoints" / "best.ckpt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        [state] = [s for key, s in saved["callbacks"].items() if key.startswith("Checkpoint")]
        newest = torch.load(path.with_name("last.ckpt"), weights_only=True)
        [known] = [s for key, s in newest["callbacks"].items() if key.startswith("Checkpoint")]
        if not same(state["best_model_score"], known["best_model_score"]):
            yield f"best.ckpt is of {state['best_model_score']}, not {known['best_model_score']}"


def _history(place: Path) -> list[str]:
    if not (place / "history.csv").exists():
        return []
    lines = [line.split(",") for line in (place / "history.csv").read_text().splitlines()]
    return [",".join([step, *others]) for step, _, *others in lines]


def _names(place: Path) -> set[str]:
    paths = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    return {path for path in paths if not any(part in path for part in VARYING)}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal to the bit; NaN is NaN."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor) and one.dtype == other.dtype and _are_same(one, other)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def _are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.is_floating_point():
        one, other = one.nan_to_num(7.7), other.nan_to_num(7.7)
    return torch.equal(one, other)
