"""What a tournament is, which its directory says: the contestants and their tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from lit_optim.runs.layout import TOURNAMENT
from lit_optim.temporary import write_whole
from lit_optim.untrusted import Unreadable, read_json_mapping

Budget: TypeAlias = Literal["steps", "evaluations", "seconds"]

#: The most that a record may say.
MOST_TRIALS, MOST_SEED, MOST_UPDATES = 10_000, 2**32 - 1, 10**12
#: The seconds of an update that a record may say.
SHORTEST, LONGEST = 1e-7, 1e6


@dataclass(frozen=True)
class TournamentSettings:
    """The settings of `tournament`, checked.

    Args:
        trials: of each study.
        seeds: of the runs that are compared; none of them is searched with.
        untuned: whether the default lr runs with these seeds too.
        budget: what is equal: updates, evaluations of the gradient, or the seconds that the first
            contestant needs for its updates.
        by: the groups whose values compete; whatever else is swept makes tasks.
    """

    trials: int = 6
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    untuned: bool = True
    budget: Budget = "steps"
    by: tuple[str, ...] = ("optimizer",)


@dataclass(frozen=True)
class Entry:
    """A contestant on a task.

    Args:
        study: the name of its search.
        contestant: its name.
        updates: of each of its runs.
        notes: how it is treated otherwise than the others, a clause each.
        untuned: the overrides of its untuned runs, without the seed; none: it has no such runs.
    """

    study: str
    contestant: str
    updates: int
    notes: tuple[str, ...] = ()
    untuned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What contestants compete on.

    Args:
        label: the values that tell it from other tasks, by key; may be empty.
        entries: one for each contestant.
    """

    label: Mapping[str, str]
    entries: Sequence[Entry]

    @property
    def name(self) -> str:
        """A few words: `data=digits trainer.max_steps=500`."""
        return " ".join(f"{key}={value}" for key, value in self.label.items())


@dataclass(frozen=True)
class Tournament:
    """A tournament: what `tournament.json` in the sweep's directory says.

    Args:
        by: what competes, such as `optimizer`.
        tasks: at least one.
        settings: of all of them.
        left_out: why, of each contestant that cannot take part.
        seconds: measured for an update of each study, where they are the budget.
    """

    by: str
    tasks: Sequence[Task]
    settings: TournamentSettings
    left_out: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def entries(self) -> list[Entry]:
        """Those of all tasks."""
        return [entry for task in self.tasks for entry in task.entries]


def write_tournament(sweep_dir: Path, tournament: Tournament) -> None:
    """Write what a tournament is into its directory, whole.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(sweep_dir / TOURNAMENT, json.dumps(asdict(tournament), indent=1))


def read_tournament(sweep_dir: Path) -> Tournament:
    """Read what a tournament is; others may have written it.

    Raises:
        Unreadable: it is missing, damaged, or something else.
    """
    path = sweep_dir / TOURNAMENT
    try:
        found = read_json_mapping(path)
    except Unreadable as error:
        raise Unreadable(f"{error}; {sweep_dir} is not the directory of a tournament") from None
    try:
        return Tournament(
            by=_text(found["by"]),
            tasks=[_read_task(task) for task in _filled(found["tasks"])],
            settings=_read_settings(found["settings"]),
            left_out=_texts(found.get("left_out", {})),
            seconds={_text(k): _seconds(v) for k, v in dict(found.get("seconds", {})).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unreadable(f"{path}: is not what a tournament writes") from None


def _read_task(found: Any) -> Task:
    entries = [
        Entry(
            study=_text(one["study"]),
            contestant=_text(one["contestant"]),
            updates=_whole(one["updates"], 0, MOST_UPDATES),
            notes=tuple(map(_text, _list(one["notes"]))),
            untuned=tuple(map(_text, _list(one["untuned"]))),
        )
        for one in _filled(found["entries"])
    ]
    return Task(_texts(found["label"]), entries)


def _read_settings(found: Any) -> TournamentSettings:
    budget = found["budget"]
    if budget not in get_args(Budget) or not isinstance(found["untuned"], bool):
        raise ValueError
    return TournamentSettings(
        trials=_whole(found["trials"], 1, MOST_TRIALS),
        seeds=tuple(_whole(seed, 0, MOST_SEED) for seed in _filled(found["seeds"])),
        untuned=found["untuned"],
        budget=budget,
        by=tuple(map(_text, _list(found["by"]))),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _filled(value: Any) -> list[Any]:
    found = _list(value)
    if not found:
        raise ValueError
    return found


def _whole(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    """The seconds of an update; infinity and NaN are outside of the bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not SHORTEST <= value <= LONGEST:
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> dict[str, str]:
    return {_text(key): _text(one) for key, one in dict(value).items()}
