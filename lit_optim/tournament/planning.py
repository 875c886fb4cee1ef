"""Plans a tournament: equal searches for all contestants, and how each of them is treated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from lit_optim.config.trainer import run_length
from lit_optim.errors import UsageError
from lit_optim.search.data import Search, Study
from lit_optim.tournament.data import Budget, Entry, Task, Tournament, TournamentSettings
from lit_optim.tournament.treatment import LR, Treatment, steady_keys, treat

STEPS = "trainer.max_steps"

Compose: TypeAlias = Callable[[Sequence[str]], Mapping[str, Any]]
"""Makes the configuration of overrides, in plain containers, with `choices` of each group."""


def arrange(
    search: Search,
    settings: TournamentSettings,
    compose: Compose,
    seconds: Mapping[str, float] | None = None,
) -> tuple[Search, Tournament]:
    """Make a tournament of a search whose studies are all combinations of what was swept.

    Args:
        search: a study for each contestant on each task.
        settings: of the tournament.
        compose: makes the configuration of a study.
        seconds: measured for an update, by study; None: not yet, and all get the updates of the
            first.

    Returns:
        The search with the treatment of each contestant and without those that cannot take part,
        and who meets whom.

    Raises:
        UsageError: nobody can take part, or the budget cannot be made equal.
    """
    seconds = seconds or {}
    typed = {key_of(line) for study in search.studies for line in study.fixed}
    treatments: dict[str, Treatment] = {}
    left_out: dict[str, str] = {}
    groups: dict[tuple[tuple[str, str], ...], list[tuple[Study, str]]] = {}
    for study in search.studies:
        contestant, label = split_label(study.label, settings.by)
        if contestant not in treatments:
            plain = compose([*_without(study.fixed, {"preset"}), "preset=none"])
            contestant = contestant or str(plain["choices"]["optimizer"])
            treatments[contestant] = treat(plain, typed, settings.budget)
        if treatments[contestant].refusal:
            left_out[contestant] = treatments[contestant].refusal
        else:
            groups.setdefault(tuple(label.items()), []).append((study, contestant))
    if not groups:
        told = "; ".join(f"{name} {why}" for name, why in left_out.items())
        raise UsageError(f"tournament: nobody can take part: {told}")
    studies: list[Study] = []
    tasks = []
    for key, members in groups.items():
        updates = run_length(compose(members[0][0].fixed)["trainer"])
        first = _Pace(members[0][1], updates, seconds.get(members[0][0].name))
        entries = []
        for study, contestant in members:
            own = treatments[contestant]
            pace = _Pace(contestant, updates, seconds.get(study.name))
            count, notes = _count_updates(settings.budget, pace, first, own)
            treated, entry = _enter(study, own, contestant, updates, count)
            studies.append(treated)
            entries.append(replace(entry, notes=(*own.notes, *notes)))
        tasks.append(Task(dict(key), entries))
    order = {study.name: place for place, study in enumerate(search.studies)}
    studies.sort(key=lambda study: order[study.name])
    made = Tournament(",".join(settings.by), tasks, settings, left_out, seconds)
    return replace(search, studies=tuple(studies)), made


def split_label(label: Mapping[str, str], by: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Split what tells a study from others into the contestant and its task.

    Returns:
        The name of the contestant, empty if nothing of it was swept; the label of the task.
    """
    own = {key: value for key, value in label.items() if key.split(".")[0] in by}
    words = [
        value if key in by else f"{key.partition('.')[2]}={value}" for key, value in own.items()
    ]
    return ",".join(words), {key: value for key, value in label.items() if key not in own}


@dataclass(frozen=True)
class _Pace:
    """Who makes how many updates by default, and the seconds of one where they were measured."""

    contestant: str
    updates: int | None
    seconds: float | None


def _count_updates(
    budget: Budget, pace: _Pace, first: _Pace, own: Treatment
) -> tuple[int | None, tuple[str, ...]]:
    """The updates of a contestant on a task, and notes about them."""
    if budget == "steps":
        return pace.updates, ()
    if pace.updates is None:
        raise UsageError(f"tournament.budget={budget} needs {STEPS}, the updates of the first")
    if budget == "evaluations":
        if own.evaluations == 1:
            return pace.updates, ()
        count = max(1, pace.updates // own.evaluations)
        return count, (f"1/{own.evaluations} of the updates: as many evaluations as the others",)
    if pace.seconds is None or first.seconds is None or pace.contestant == first.contestant:
        return pace.updates, ()
    count = max(1, round(pace.updates * first.seconds / pace.seconds))
    return count, (f"{count:,} updates, in the time of {first.contestant} for {pace.updates:,}",)


def _enter(
    study: Study, own: Treatment, contestant: str, updates: int | None, count: int | None
) -> tuple[Study, Entry]:
    """The study as its contestant is treated, and its entry."""
    common = dict(own.lines)
    if count is not None and count != updates:
        common[STEPS] = str(count)
    fixed = with_values(study.fixed, common)
    if common.get("scheduler"):
        known = steady_keys()
        others = {key_of(line) for line in fixed if key_of(line).startswith("scheduler.")} - known
        fixed = _without(fixed, others)
    default = dict(common)
    if LR in study.space and own.own_lr is not None:
        default[LR] = repr(own.own_lr)
    untuned = with_values(fixed, default)
    with_lr = LR in study.space or any(key_of(line) == LR for line in fixed)
    treated = replace(study, fixed=with_values(fixed, own.for_lr) if with_lr else fixed)
    return treated, Entry(study.name, contestant, count or 0, untuned=untuned)


def key_of(line: str) -> str:
    """The key of an override."""
    return line.lstrip("+~").partition("=")[0]


def with_values(lines: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Overrides with some values replaced, or added at the end."""
    kept = _without(lines, set(values))
    groups = ("scheduler",)
    added = [f"{'' if key in groups else '++'}{key}={value}" for key, value in values.items()]
    return (*kept, *added)


def _without(lines: Sequence[str], keys: set[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if key_of(line) not in keys)
