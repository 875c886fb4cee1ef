"""Plans a search: which studies a line makes, and what each of them searches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lit_optim.config.check import SINGLE_GROUPS, explain_no_value
from lit_optim.config.composing import (
    MOST_RUNS,
    as_hydra_override,
    hydra_key,
    override_values,
)
from lit_optim.config.places import groups, own_conf_dir
from lit_optim.config.reading import parse_overrides
from lit_optim.config.sweep_settings import OF_THE_SWEEP
from lit_optim.config.targets import TARGET, class_name
from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import accepts
from lit_optim.search.composing import compose_study
from lit_optim.search.data import Choice, Search, Settings, Space, Span, Study, Trial
from lit_optim.search.settings import GROUP, read_settings, settings_of
from lit_optim.search.space import (
    AUTO,
    LR,
    choice_text,
    flatten_space,
    is_searched,
    plain_line,
    read_listed,
    read_typed,
    refuse_twice,
    value_text,
    values_of,
)
from lit_optim.signatures import read_attribute, read_signature
from lit_optim.sweeps.names import name_jobs

SPACE, BY_OPTIMIZER = "search.space", "by_optimizer"
#: Lines that are of a start of the search.
OF_A_START = re.compile(r"(hydra|resume)\b")
#: Lines that are of the search as a whole, not of its runs.
OF_THE_WHOLE = re.compile(rf"{OF_THE_SWEEP}|{OF_A_START.pattern}")
#: Keys that no sampler decides: they are of the whole, or of what is done with a run.
NOT_SEARCHED = re.compile(
    rf"({OF_THE_WHOLE.pattern}|(allow|branch_from|ckpt|monitor|mode|test|train|trainer\.threads)$).*"
)
SEED = "seed"


def plan_search(lines: Sequence[str]) -> Search:
    """Make a search of the overrides of a sweep.

    Args:
        lines: as typed, or as Hydra gets them.

    Raises:
        UsageError: the first thing that is wrong, in one line.
    """
    plain = [line.lstrip("+") for line in lines]
    kept = tuple(line for line in plain if not OF_A_START.match(line.lstrip("~")))
    return _plan(kept, own_conf_dir())


@lru_cache(maxsize=8)  # the front and the sweeper ask for the same, in one process
def _plan(lines: tuple[str, ...], own: Path | None) -> Search:
    overrides = parse_overrides([*lines])
    of_runs = [one for one in overrides if not OF_THE_WHOLE.match(one.key_or_group)]
    shared = lines_of_group(lines)
    searched = [one for one in of_runs if is_searched(one)]
    rest = [one for one in of_runs if one not in searched]
    swept = [one for one in rest if one.is_sweep_override()]
    for one in [*searched, *swept]:
        _check_swept(one)
    _check_twice(searched, rest)
    of_space = {key: one for one in overrides if _is_of_group(one) for key in _keys_of_space(one)}
    _check_contradictions(of_space, rest)
    combinations = [*_combinations(rest)]
    names = name_jobs(combinations, line=[str(one.input_line) for one in of_runs])
    studies: list[Study] = []
    settings: Settings | None = None
    for name, fixed in zip(names, combinations, strict=True):
        cfg = compose_study([*fixed, *shared])
        _check_classes(cfg)
        own_settings = read_settings(cfg)
        if settings is None:
            settings = own_settings
            _check_count(settings, len(combinations))
            _check_by_optimizer(cfg, searched)
        _check_judge(own_settings, settings)
        label = {
            one.key_or_group: line.partition("=")[2]
            for one, line in zip(rest, fixed, strict=True)
            if one in swept
        }
        _check_auto(rest, cfg)
        space = find_space(cfg, searched, rest)
        _check_space(space, name if swept else "", rest)
        studies.append(Study(name if swept else "", fixed, space, label))
    assert settings is not None
    _check_found(of_space, studies)
    return Search(lines, tuple(studies), settings)


def job_lines(trial: Trial, seed: int) -> list[str]:
    """The overrides of one run of a trial."""
    texts = [_line(trial.study.space, key, value) for key, value in trial.values.items()]
    fixed = [line for line in trial.study.fixed if line.lstrip("+").partition("=")[0] != SEED]
    return [*fixed, *texts, f"++{SEED}={seed}"]


def _line(space: Space, key: str, value: Any) -> str:
    one = space.get(key)
    text = choice_text(key, one, value) if isinstance(one, Choice) else value_text(key, value)
    return f"{'' if key in groups() else '++'}{key}={text}"


def lines_of_group(lines: Sequence[str]) -> list[str]:
    """The overrides that are settings of `search`, for composing."""
    return [as_hydra_override(one) for one in parse_overrides([*lines]) if _is_of_group(one)]


def _is_of_group(override: Override) -> bool:
    return override.key_or_group.partition(".")[0] == GROUP


def _check_swept(override: Override) -> None:
    line, key = str(override.input_line), override.key_or_group
    if key == SEED:
        values = line.partition("=")[2] if not is_searched(override) else "0,1,2"
        raise UsageError(
            f"{line}: the seeds of a trial are one setting; use search.seeds=[{values}]"
        )
    if key == LR and not is_searched(override) and AUTO in override_values(override):
        raise UsageError(f"{line}: {AUTO} is a range and cannot be combined with other values")
    if not is_searched(override):
        refuse_twice(line, values_of(override))
    if NOT_SEARCHED.fullmatch(key):
        raise UsageError(f"{line}: {key} is the same in all runs of a search")


def _check_classes(cfg: DictConfig) -> None:
    """Refuse a choice of a class of the user's own without the class."""
    for group in SINGLE_GROUPS:
        node = cfg.get(group)
        if isinstance(node, DictConfig) and OmegaConf.is_missing(node, TARGET):
            key = f"{group}.{TARGET}"
            raise UsageError(f"{key}: {explain_no_value(key)}")


def _check_twice(searched: Sequence[Override], rest: Sequence[Override]) -> None:
    keys: dict[str, str] = {}
    for one in [*rest, *searched]:
        if one.key_or_group in keys and one in searched:
            first = keys[one.key_or_group]
            raise UsageError(f"{first} and {one.input_line} contradict each other")
        keys[one.key_or_group] = str(one.input_line)


def _combinations(overrides: Sequence[Override]) -> Iterator[tuple[str, ...]]:
    """The overrides with one value a key, for each combination of values.

    Raises:
        UsageError: too many.
    """
    lines = [
        [f"{hydra_key(one)}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override() and override_values(one)
        else [as_hydra_override(one)]
        for one in overrides
    ]
    return itertools.islice(itertools.product(*lines), MOST_RUNS + 1)


def find_space(cfg: DictConfig, searched: Sequence[Override], rest: Sequence[Override]) -> Space:
    """What is searched in a study: what is typed, then what a file says of other keys.

    Args:
        cfg: of the study, without what is searched.
        searched: what is typed to be searched.
        rest: what is not.

    Raises:
        UsageError: nothing is, or in a way that is impossible.
    """
    name = str(cfg.hydra.runtime.choices["optimizer"])
    common, by_optimizer = split_space(cfg)
    listed = flatten_space(common)
    of_own = flatten_space(by_optimizer.get(name) or {}, f"{SPACE}.{BY_OPTIMIZER}.{name}")
    listed |= {f"optimizer.{key}": one for key, one in of_own.items()}
    taken = {one.key_or_group for one in [*searched, *rest]}
    found: dict[str, Any] = {one.key_or_group: read_typed(one) for one in searched}
    for key, one in listed.items():
        if NOT_SEARCHED.fullmatch(key) or key == SEED:
            raise UsageError(f"{SPACE}: {key} is the same in all runs of a search")
        if key not in taken:
            found[key] = read_listed(f"{SPACE}.{key}", key, one)
    return {key: find_range(cfg, found) if one is None else one for key, one in found.items()}


def split_space(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The space that files say: of all studies, and of those of each optimizer.

    Raises:
        UsageError: it is no mapping.
    """
    parts: list[dict[str, Any]] = []
    space = settings_of(cfg)["space"]
    for path in (SPACE, f"{SPACE}.{BY_OPTIMIZER}"):
        space = {} if space is None else space
        if not isinstance(space, dict):
            raise UsageError(f"{path} must be a mapping of keys, got {show(space)}")
        parts.append(space)
        space = space.get(BY_OPTIMIZER)
    return {key: one for key, one in parts[0].items() if key != BY_OPTIMIZER}, parts[1]


def find_range(cfg: DictConfig, space: Space) -> Span:
    """The range of lrs that the optimizer's class declares, for `optimizer.lr=auto`.

    Args:
        cfg: of the study.
        space: what else is searched.

    Raises:
        UsageError: it declares none.
    """
    line = f"{LR}={AUTO}"
    if "optimizer" in space:
        raise UsageError(
            f"{line}: each optimizer has its own range; optimizer=a,b, without choice(), makes a "
            "study for each"
        )
    ends = read_attribute(cfg.optimizer[TARGET], "lr_range")
    if ends is None:
        name = class_name(cfg.optimizer)
        raise UsageError(
            f"{line}: {name} declares no lr_range; use {LR}=tag(log,interval(1e-4,1e-1))"
        )
    low, high = ends
    return Span(float(low), float(high), is_log=True)


def _check_count(settings: Settings, studies: int) -> None:
    """Refuse a search of too many runs.

    Raises:
        UsageError: with their number.
    """
    trials, seeds = settings.trials, len(settings.seeds)
    runs = studies * trials * seeds
    if runs > MOST_RUNS:
        raise UsageError(
            f"this search asks for {runs:,} runs (studies: {studies:,}, trials: {trials:,}, "
            f"seeds: {seeds:,}), and {MOST_RUNS:,} is the most"
        )


def _check_judge(one: Settings, first: Settings) -> None:
    """Refuse studies that are judged differently.

    Raises:
        UsageError: naming both metrics.
    """
    if (one.metric, one.mode) != (first.metric, first.mode):
        raise UsageError(
            f"the studies are judged by {first.metric} ({first.mode}) and {one.metric} "
            f"({one.mode}); choose one with search.metric=..."
        )


def _check_space(space: Space, study: str, rest: Sequence[Override]) -> None:
    """Refuse a study that searches nothing.

    Raises:
        UsageError: it does; names the lr, if that is typed.
    """
    if space:
        return
    where = f" of {study}" if study else ""
    line = next((plain_line(one) for one in rest if one.key_or_group == LR), None)
    why = f"{line} is fixed, and " if line and "," not in line else ""
    raise UsageError(
        f"{why}nothing{where} is searched; use {LR}={AUTO}, KEY=interval(low,high) or "
        "KEY=choice(a,b)"
    )


def _check_by_optimizer(cfg: DictConfig, searched: Sequence[Override]) -> None:
    """Refuse a space for an optimizer that does not exist, or where the sampler chooses it.

    Raises:
        UsageError: naming it.
    """
    by_optimizer, known = split_space(cfg)[1], groups()["optimizer"]
    for name in by_optimizer:
        if name not in known:
            near = suggest(str(name), known)
            raise UsageError(f"{SPACE}.{BY_OPTIMIZER}: unknown optimizer {name}{near}")
    if by_optimizer and any(one.key_or_group == "optimizer" for one in searched):
        raise UsageError(
            f"{SPACE}.{BY_OPTIMIZER} with optimizer=choice(...): the space is the same in all "
            "trials of a study; optimizer=a,b makes a study for each"
        )


def _keys_of_space(override: Override) -> list[str]:
    """The keys that a typed override of `search.space` searches."""
    key = override.key_or_group
    if override.is_delete() or not (key == SPACE or key.startswith(f"{SPACE}.")):
        return []
    below = key.removeprefix(SPACE).removeprefix(".")
    keys = flatten_space({below: override.value()} if below else override.value())
    return [re.sub(rf"^{BY_OPTIMIZER}\.[^.]+", "optimizer", name) for name in keys]


def _check_contradictions(of_space: Mapping[str, Override], rest: Sequence[Override]) -> None:
    """Refuse a key that is typed both with values and in a space.

    Raises:
        UsageError: naming both.
    """
    for one in rest:
        if (other := of_space.get(one.key_or_group)) is not None:
            raise UsageError(f"{one.input_line} and {other.input_line} contradict each other")


def _check_found(of_space: Mapping[str, Override], studies: Sequence[Study]) -> None:
    """Refuse a typed space of which no study has anything.

    Raises:
        UsageError: naming it.
    """
    for key, one in of_space.items():
        if not any(key in study.space for study in studies):
            raise UsageError(f"{one.input_line} does nothing: no study has that optimizer")


def _check_auto(rest: Sequence[Override], cfg: DictConfig) -> None:
    """Refuse `auto` for a key that neither has such a value nor a range.

    Raises:
        UsageError: naming it.
    """
    signature = read_signature(cfg.optimizer[TARGET])
    for one in rest:
        group, _, name = one.key_or_group.partition(".")
        if group != "optimizer" or one.is_delete() or one.value() != AUTO or signature is None:
            continue
        parameter = signature.parameters.get(name)
        if parameter is not None and not accepts(AUTO, parameter.annotation):
            raise UsageError(
                f"{one.input_line}: {AUTO} is for {LR}; for another key, give an interval"
            )
