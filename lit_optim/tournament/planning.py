"""Plans a tournament: equal trials for all contestants, and how each of them is treated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from lit_optim.config.places import groups
from lit_optim.config.targets import TARGET
from lit_optim.config.trainer import run_length
from lit_optim.errors import UsageError, how_many
from lit_optim.results.tournament_record import Budget, Entry, Task, Tournament, TournamentSettings
from lit_optim.search.data import Search, Study
from lit_optim.tournament.treatment import LR, Treatment, steady_keys, treat

STEPS = "trainer.max_steps"
#: The groups whose choice the sampler may decide, as a hyperparameter.
SEARCHED = ("lr_rule", "model", "param_groups", "scheduler")
#: Decide how long a run is, or what an update costs.
LENGTH = (
    *(STEPS, "trainer.max_epochs", "trainer.max_time", "trainer.min_steps", "trainer.min_epochs"),
    *("trainer.limit_train_batches", "trainer.accumulate_grad_batches"),
)

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
        UsageError: no contestant can take part, or the budget cannot be made equal.
    """
    known = {study.name for study in search.studies}
    seconds = {name: one for name, one in (seconds or {}).items() if name in known}
    left_out: dict[str, dict[str, str]] = {}
    meeting: dict[tuple[tuple[str, str], ...], list[_Contestant]] = {}
    for study in search.studies:
        _check_space(study, settings.by)
        name, label = split_label(study.label, settings.by)
        plain = compose([*_without(study.fixed, {"preset"}), "preset=none"])
        name = name or str(plain["choices"]["optimizer"])
        typed = {*map(key_of, study.fixed), *study.space}
        own = treat(plain, typed, settings.budget)  # which may depend on the task
        members = meeting.setdefault(tuple(label.items()), [])
        if own.refusal:
            task = " ".join(f"{key}={value}" for key, value in label.items())
            left_out.setdefault(name, {})[task] = own.refusal
        else:
            members.append(_Contestant(name, study, own))
    told = {name: _tell(why, len(meeting)) for name, why in left_out.items()}
    _check_count([one.name for members in meeting.values() for one in members], told, settings.by)
    studies: list[Study] = []
    tasks = []
    for key, members in meeting.items():
        if not members:
            continue
        updates = run_length(compose(members[0].study.fixed)["trainer"])
        first = _Pace(members[0].name, updates, seconds.get(members[0].study.name))
        entries = []
        for one in members:
            pace = _Pace(one.name, updates, seconds.get(one.study.name))
            count, notes = _count_updates(settings.budget, pace, first, one.treatment)
            treated, entry = _enter(one, updates, count)
            studies.append(treated)
            entries.append(replace(entry, notes=(*one.treatment.notes, *notes)))
        tasks.append(Task(dict(key), entries))
    order = {study.name: place for place, study in enumerate(search.studies)}
    studies.sort(key=lambda study: order[study.name])
    made = Tournament(",".join(settings.by), tasks, settings, told, seconds)
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


def _check_space(study: Study, by: Sequence[str]) -> None:
    """Refuse that the sampler decides who competes, on what, or for how long.

    Raises:
        UsageError: naming the key.
    """
    for key in study.space:
        is_choice = key in groups() and (key in by or key not in SEARCHED)
        if is_choice or key in LENGTH or key.endswith(f".{TARGET}"):
            raise UsageError(
                f"{key}: a tournament does not let the sampler decide it, as it tells who "
                f"competes, on what, or for how long; use {key}=VALUE, or several values with "
                "commas"
            )


def _tell(why: Mapping[str, str], tasks: int) -> str:
    """Why a contestant is left out, and of which tasks unless it is of all in the same way."""
    reasons = set(why.values())
    if len(why) == tasks and len(reasons) == 1:
        return reasons.pop()
    return "; ".join(f"on {task}: {reason}" for task, reason in why.items())


def _check_count(able: Sequence[str], left_out: Mapping[str, str], by: Sequence[str]) -> None:
    """Refuse a tournament of one contestant, or of none.

    Args:
        able: who can take part.
        left_out: why, of those who cannot.
        by: the groups whose values compete.

    Raises:
        UsageError: with the reasons.
    """
    if len(set(able)) > 1:
        return
    who = f"only {able[0]}" if able else "no contestant"
    told = "; ".join(f"{name} {why}" for name, why in left_out.items())
    choose = f"choose contestants, with commas: {by[0]}=" + ",".join([*groups()[by[0]]][:2])
    raise UsageError(f"tournament: {who} can take part{f': {told}' if told else f'; {choose}'}")


@dataclass(frozen=True)
class _Contestant:
    """A contestant on a task, with the study of it and how it is treated there."""

    name: str
    study: Study
    treatment: Treatment


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
    updates = how_many(count, "update")
    return count, (f"{updates}, in the time of {first.contestant} for {pace.updates:,}",)


def _enter(one: _Contestant, updates: int | None, count: int | None) -> tuple[Study, Entry]:
    """The study as its contestant is treated, and its entry."""
    study, own = one.study, one.treatment
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
    return treated, Entry(study.name, one.name, count or 0, untuned=untuned)


def key_of(line: str) -> str:
    """The key of an override."""
    return line.lstrip("+~").partition("=")[0]


def with_values(lines: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Overrides with some values replaced, or added at the end."""
    kept = _without(lines, set(values))
    added = [f"{'' if key in groups() else '++'}{key}={value}" for key, value in values.items()]
    return (*kept, *added)


def _without(lines: Sequence[str], keys: set[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if key_of(line) not in keys)
