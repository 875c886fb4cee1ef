"""The settings of `tournament`: which there are, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any

from lit_optim.config.places import groups, mapping_of
from lit_optim.config.sweep_settings import SWEEP_GROUPS
from lit_optim.errors import UsageError, explain_unknown, show, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.results.tournament_record import Budget, TournamentSettings

GROUP = "tournament"
#: What the values may be; the defaults are those of `conf/tournament/default.yaml`.
TAKES: dict[str, Any] = {
    "trials": Annotated[int, "in [1, 10000]"],
    "seeds": list[Annotated[int, "in [0, 4294967295]"]],
    "untuned": bool,
    "budget": Budget,
    "by": list[str],
}


def read_settings(said: Mapping[str, Any]) -> TournamentSettings:
    """The settings of a tournament, checked.

    Args:
        said: the node `tournament` of a configuration, with plain values.

    Raises:
        UsageError: naming the key, what was given and what is allowed.
    """
    known = [field.name for field in fields(TournamentSettings)]
    for key in said:
        if key not in known:
            raise UsageError(explain_unknown(GROUP, key, known))
    values = mapping_of(groups()[GROUP]["default"]) | dict(said)
    for key, value in values.items():
        if not accepts(value, TAKES[key]):
            what = describe(TAKES[key])
            what = "a list of whole numbers, such as [1,2,3]" if key == "seeds" else what
            raise UsageError(f"{GROUP}.{key} must be {what}, got {show(value)}")
    seeds = values["seeds"]
    if not seeds:
        raise UsageError(f"{GROUP}.seeds needs at least one seed, got []")
    for place, seed in enumerate(seeds):
        if seed in seeds[:place]:
            raise UsageError(f"{GROUP}.seeds={show(seeds)} has {seed} twice")
    competing = [group for group in groups() if group not in SWEEP_GROUPS]
    for group in values["by"]:
        if group not in competing:
            near = suggest(group, competing) or f"; it is one of {', '.join(competing)}"
            raise UsageError(f"{GROUP}.by={show(values['by'])}: {group} is not a group{near}")
    if not values["by"]:
        raise UsageError(f"{GROUP}.by must name at least one group, such as [optimizer]")
    made: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return TournamentSettings(**made)


def check_seeds(settings: TournamentSettings, search_seeds: Sequence[int]) -> None:
    """Refuse seeds that the trials have run with, whichever way those were said.

    Args:
        settings: of the tournament.
        search_seeds: which the trials run with.

    Raises:
        UsageError: naming the first that both have.
    """
    for seed in settings.seeds:
        if seed in search_seeds:
            raise UsageError(
                f"{GROUP}.seeds={show([*settings.seeds])} has {seed}, which is one of "
                f"search.seeds={show([*search_seeds])}: the best trial was chosen with that seed, "
                "so the comparison needs other seeds"
            )
