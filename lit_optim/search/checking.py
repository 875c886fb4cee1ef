"""Checks a search as far as that is possible without Optuna, and before any run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from lit_optim.config.check import check_config, to_plain
from lit_optim.config.places import groups
from lit_optim.config.targets import TARGET, class_name
from lit_optim.errors import UsageError, how_many, printable
from lit_optim.runs.layout import SEARCH
from lit_optim.search.composing import compose_study
from lit_optim.search.data import Search, Space, Span, Study
from lit_optim.search.grids import share_out
from lit_optim.search.settings import GROUP
from lit_optim.search.space import LR, edge_texts, edges, is_searched, plain_line
from lit_optim.search.storage_urls import check_storage
from lit_optim.search.studies import lines_of_group
from lit_optim.signatures import read_signature
from lit_optim.untrusted import Unreadable, read_json_mapping

INSTALL = "python -m pip install 'lit-optim[search]'"
OLDEST, NEWEST = 4, 5  # of Optuna
#: The key of an optimizer that finds its step itself, and then takes no lr.
RELATIVE = "relative_step"
TRIAL = re.compile(r"trial=(\d+)")


def check_search(search: Search) -> None:
    """Compose each study at both ends of each range and at each choice, and check it.

    Raises:
        UsageError: the first thing that is wrong.
    """
    _check_installed(search)
    whole, trials = lines_of_group(search.line), f"++{GROUP}.trials={search.settings.trials}"
    if trials not in whole:  # as a tournament was planned, so that nothing is composed again
        whole.append(trials)
    for study in search.studies:
        if search.settings.sampler_of(study.space) == "grid":
            share_out(study.space, search.settings.trials)
        _check_study(study, whole)


def _check_installed(search: Search) -> None:
    if not find_spec("optuna"):
        raise UsageError(f"a search needs Optuna, which is not installed: {INSTALL}")
    try:
        major = int(version("optuna").partition(".")[0])
    except (PackageNotFoundError, ValueError):  # a checkout
        major = NEWEST
    if major < OLDEST:
        raise UsageError(
            f"a search needs Optuna {OLDEST} or {NEWEST}, and {version('optuna')} is installed: "
            f"{INSTALL}"
        )
    if search.settings.sampler in ("gp", "qmc") and not find_spec("scipy"):
        raise UsageError(
            f"search.sampler={search.settings.sampler} needs scipy, which is not installed: "
            f"{INSTALL}"
        )
    if search.settings.storage is not None:
        lines = [line for line in search.line if line.startswith("search.storage=")]
        typed = lines[-1].partition("=")[2].strip("'\"") if lines else search.settings.storage
        check_storage(typed, search.settings.storage)


def _check_study(study: Study, whole: Sequence[str]) -> None:
    """Check a study at both ends of each range and at each choice.

    Args:
        study: to check.
        whole: overrides that are of the search as a whole.
    """
    chosen = {key: one for key, one in study.space.items() if key in groups()}
    others = {key: edges(one) for key, one in study.space.items() if key not in chosen}
    lines = {key: [f"{key}={text}" for text in edge_texts(key, one)] for key, one in chosen.items()}
    first = {key: texts[0] for key, texts in lines.items()}
    variants = [first, *({**first, key: t} for key, texts in lines.items() for t in texts[1:])]
    for number, variant in enumerate(variants):
        cfg = compose_study([*study.fixed, *variant.values(), *whole])
        with open_dict(cfg):
            cfg.pop(GROUP, None)  # no run has it
        for key, values in others.items():
            OmegaConf.update(cfg, key, values[0], merge=False, force_add=True)
        if number == 0:
            _check_run(cfg)
            _check_whole(study.space, cfg)
        _check_values(study, cfg)
        for key, values in others.items() if number == 0 else ():
            for value in values[1:]:
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
                _check_values(study, cfg)


def _check_values(study: Study, cfg: DictConfig) -> None:
    try:
        check_config(cfg)
    except UsageError as error:
        raise UsageError(f"{error}{_explain(study, str(error))}") from None


def _explain(study: Study, message: str) -> str:
    """What is searched, where a message is about that; and in which study."""
    where = f" (in {study.name})" if study.name else ""
    key = next((key for key in study.space if re.match(rf"{re.escape(key)}\b", message)), None)
    if key is None:
        return where
    one = study.space[key]
    if not isinstance(one, Span):
        return f", one of choice({','.join(edge_texts(key, one))}){where}"
    text = f"interval({one.low:g},{one.high:g})"
    if "whole number" in message and not one.is_whole:
        return f", an end of {text}; use int({text}){where}"
    return f", an end of {text}{where}"


def _check_whole(space: Space, cfg: DictConfig) -> None:
    """Refuse whole numbers only where a key is a number of any kind, and an lr that is not used."""
    optimizer = cfg.optimizer
    if LR in space and optimizer.get(RELATIVE) and LR.partition(".")[2] in optimizer:
        raise UsageError(
            f"{LR}: {class_name(optimizer)} takes an lr only with optimizer.{RELATIVE}=false"
        )
    for key, one in space.items():
        group, _, name = key.partition(".")
        node: Any = cfg.get(group)
        if not (isinstance(one, Span) and one.is_whole and isinstance(node, DictConfig)):
            continue
        signature = read_signature(str(node.get(TARGET)))
        parameter = None if signature is None else signature.parameters.get(name)
        if parameter is not None and _kinds(parameter.annotation) == {float}:
            raise UsageError(
                f"{key}=int(interval({one.low},{one.high})): {key} is not a whole number; use "
                f"interval({one.low},{one.high}), or choice() for a few values"
            )


def _kinds(annotation: Any) -> set[Any]:
    """The plain types of numbers within an annotation."""
    inner = get_args(annotation)
    if get_origin(annotation) is None:
        return {annotation} & {int, float}
    return set().union(*map(_kinds, inner))


def _check_run(cfg: DictConfig) -> None:
    """Refuse runs that have no value to be judged by.

    Raises:
        UsageError: naming the setting.
    """
    plain = to_plain(cfg)
    if not plain["train"]:
        raise UsageError("train=false leaves nothing to search for; leave it out")
    if plain["trainer"].get("fast_dev_run"):
        raise UsageError("trainer.fast_dev_run (debug=fast) leaves no results to search by")


def check_resumed(search: Search, sweep_dir: Path) -> None:
    """Refuse to go on with a search in the directory of something else.

    Args:
        search: as it is now.
        sweep_dir: to resume.

    Raises:
        UsageError: that is a plain sweep, or a search of other studies or with more trials.
    """
    if not (sweep_dir / SEARCH).is_file():
        raise UsageError(
            f"resume={sweep_dir} is a plain sweep, and this line is a search, which needs a "
            "directory of its own: leave out resume"
        )
    begun = count_begun(sweep_dir, [study.name for study in search.studies])
    if begun > search.settings.trials:
        raise UsageError(
            f"search.trials={search.settings.trials} is fewer than the {how_many(begun, 'trial')} "
            f"that {sweep_dir} has begun"
        )
    recorded = _recorded_studies(sweep_dir)
    names = [study.name for study in search.studies]
    if recorded and (gone := [name for name in recorded if name not in names]):
        had = printable(gone[0]) or "a single study"
        raise UsageError(
            f"resume={sweep_dir} has {had}, which this line has not; studies may be added where "
            "there were several, but not left out"
        )


def check_fixed(overrides: Sequence[Override], sweep_dir: Path) -> None:
    """Refuse a single value for what a search samples, when it is resumed.

    Args:
        overrides: of the line, with those of the record that it does not replace.
        sweep_dir: to resume.

    Raises:
        UsageError: naming the override.
    """
    spaces = [one.get("space") for one in _recorded(sweep_dir)]
    sampled = {key for space in spaces if isinstance(space, dict) for key in space}
    for one in overrides:
        if one.key_or_group in sampled and not is_searched(one):
            raise UsageError(
                f"{plain_line(one)}: the search in {sweep_dir} samples {one.key_or_group}, which "
                "cannot be fixed when it is resumed; leave it out, or begin another search"
            )


def _recorded_studies(sweep_dir: Path) -> Sequence[str]:
    """The names of the studies that the record of a search lists."""
    names = [one.get("name") for one in _recorded(sweep_dir)]
    return [name for name in names if isinstance(name, str)]


def _recorded(sweep_dir: Path) -> list[dict[str, Any]]:
    """The studies that the record of a search lists, as its file says."""
    try:
        found = read_json_mapping(sweep_dir / SEARCH).get("studies")
    except Unreadable:  # damaged: the storage knows as well
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def count_begun(sweep_dir: Path, studies: Sequence[str]) -> int:
    """The most trials that a study has begun, by their directories."""
    found = [
        TRIAL.fullmatch(path.name) for name in studies for path in (sweep_dir / name).glob("*")
    ]
    return max((int(match[1]) + 1 for match in found if match), default=0)
