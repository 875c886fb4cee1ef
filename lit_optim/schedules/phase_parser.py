"""A schedule that the user writes as a list of phases.

Raises: ValueError naming the phase and the key, as in phases.1.for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.schedules import shapes
from lit_optim.schedules.durations import Duration, parse
from lit_optim.schedules.library import Counting, Gamma, checked
from lit_optim.schedules.phase_spec import Absolute, Free, InverseSqrt, Item, Level, Phase, Repeat
from lit_optim.schedules.phases import Phases

CONSTANT = "constant"
#: The keys of a phase and of a repeat, with what they accept.
PHASE: dict[str, Any] = {
    "shape": shapes.ShapeName,
    "from": Annotated[float, ">= 0"],
    "to": Annotated[float, ">= 0"],
    "for": Duration,
    "levels": Annotated[int, "> 1"],
    "timescale": Duration,
}
REPEAT: dict[str, Any] = {
    "repeat": list[Any],
    "growth": Annotated[float, ">= 1"],
    "decay": Gamma,
    "floor": Annotated[float, ">= 0"],
    "times": Annotated[int, "> 0"],
    "for": Duration,
}
#: What else people call a key.
MEANT = {
    other: key
    for key, others in {
        "shape": "name kind type form curve",
        "from": "start begin init initial",
        "to": "end stop target final",
        "for": "length duration steps epochs during until total",
        "times": "count rounds cycles repeats",
    }.items()
    for other in others.split()
}
#: What `phases` does without being told: warmup, stable, decay.
WSD: Sequence[Mapping[str, Any]] = (
    {"shape": "linear", "from": 0, "to": 1, "for": "5%"},
    {"shape": "constant", "for": "75%"},
    {"shape": "1-sqrt", "to": 0},
)


@checked
def phases(
    phases: Sequence[Mapping[str, Any]] = WSD,
    absolute: bool = False,
    **counting: Unpack[Counting],
) -> Phases:
    """Phases one after the other: each from where, to where, in which shape, for how long.

    Ours. Every schedule but those that follow a metric or are formulas is such a list.

        - {shape: linear, from: 0, to: 1, for: 5%}
        - {shape: constant, for: 75%}
        - {shape: 1-sqrt, to: 0}

    A phase:

    - `shape`: constant, linear, cosine, mirror_cosine, sqrt (also called 1-sqrt), mirror_sqrt,
      square, rex, exponential, inverse_sqrt, or with a number power(1.5), polynomial(2),
      exponential(0.01), staircase(4);
    - `from`: the level at its start; left out, where the phase before it has ended, at first 1;
    - `to`: the level at its end; a constant has none;
    - `for`: how long: steps, %, epochs or samples; one phase may leave it out, and takes the rest;
    - `levels`: so many equal parts of one level each, instead of smoothly;
    - `timescale`: of an inverse_sqrt without `to`, which needs no end: 1 / √(1 + t / timescale).

    Phases again and again, for as long as `for` says or for the rest:

        - {repeat: [{shape: cosine, from: 1, to: 0, for: 10%}], growth: 2, decay: 0.8}

    - `growth`: each round is so many times as long as the one before;
    - `decay`: and its height over `floor` so many times as high;
    - `times`: so many rounds in all; `for` in a round is then a % of the round.

    With `absolute` levels are the lr itself, not factors of each group's own.
    """
    return Phases(_sequence("phases", phases, absolute), **counting)


def _sequence(path: str, given: Sequence[Mapping[str, Any]], absolute: bool) -> tuple[Item, ...]:
    if not given:
        raise UsageError(f"{path} must have at least one phase")
    _check_keys(path, given)  # a misspelled key is missed below
    _check_start(path, given[0], absolute)
    items: list[Item] = []
    level: float | None = 1.0
    for index, phase in enumerate(given):
        item, level = _item(f"{path}.{index}", phase, absolute, level)
        items.append(item)
    open_ended = [index for index, phase in enumerate(given) if _takes_the_rest(phase)]
    if len(open_ended) > 1:  # the last of them would get nothing
        keys = " and ".join(f"{path}.{index}" for index in open_ended)
        raise UsageError(f"{keys} say no `for`: only one phase can take the rest")
    return tuple(items)


def _check_keys(path: str, given: Sequence[Any]) -> None:
    """Refuse the first key that no phase has, before what is missing is asked for."""
    for index, phase in enumerate(given):
        known = _known_keys(phase) if isinstance(phase, Mapping) else {}
        for key in phase if known else ():
            if key not in known:
                meant = MEANT.get(str(key).lower())
                near = f"; did you mean {meant}?" if meant in known else suggest(str(key), known)
                near = near or f" (it takes {', '.join(known)})"
                raise UsageError(f"{path}.{index} has no key {key!r}{near}")
        if known is REPEAT and isinstance(phase["repeat"], list | tuple):
            _check_keys(f"{path}.{index}.repeat", phase["repeat"])


def _known_keys(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Those of its kind; none where it is of neither."""
    if phase.get("repeat") is not None:
        return REPEAT
    return PHASE if phase.get("shape") is not None else {}


def _check_start(path: str, first: Any, absolute: bool) -> None:
    """The lr itself cannot be 1 where nothing is said."""
    if absolute and isinstance(first, Mapping) and "repeat" not in first and "from" not in first:
        raise UsageError(f"{path}.0.from must be given, for levels are absolute")


def _takes_the_rest(phase: Any) -> bool:
    return isinstance(phase, Mapping) and phase.get("for") is None


def _item(path: str, given: Any, absolute: bool, level: float | None) -> tuple[Item, float | None]:
    """The phase, and where it ends; None where only the run can tell."""
    if isinstance(given, Mapping):
        given = {key: value for key, value in given.items() if value is not None}
    if not isinstance(given, dict) or not ("shape" in given or "repeat" in given):
        raise UsageError(
            f"{path} must be a phase such as {{shape: cosine, to: 0, for: 20%}}, got {show(given)}"
        )
    known = _known_keys(given)
    for key, value in given.items():
        if key == "for" or key == "timescale":
            _positive(f"{path}.{key}", value)
        elif not accepts(value, known[key]):
            raise UsageError(f"{path}.{key} must be {describe(known[key])}, got {show(value)}")
    if "repeat" in given:
        return _repeat(path, given, absolute), None
    return _phase(path, given, absolute, level)


def _positive(key: str, duration: Any) -> None:
    if parse(key, duration)[0] == 0:
        raise UsageError(f"{key} must be more than 0, got {show(duration)}")


def _phase(
    path: str, given: Mapping[str, Any], absolute: bool, level: float | None
) -> tuple[Item, float | None]:
    start = given.get("from", level)
    constant = given["shape"] == CONSTANT
    form = {} if constant else shapes.named(f"{path}.shape", given["shape"])
    if "timescale" in given:
        if absolute:
            raise UsageError(f"{path}.timescale gives factors, so absolute must be false")
        return _open(path, given, start), None
    if constant and ("to" in given or "levels" in given):
        raise UsageError(f"{path}: a constant has one level, `from`; it takes no to and no levels")
    if not constant and "to" not in given:
        raise UsageError(f"{path}.to must be given: the level at the end of the phase")
    if constant and start is None:
        raise UsageError(f"{path}.from must be given: the level after a repeat or an open phase")
    end = start if constant else given["to"]
    try:
        phase = Phase(
            None if start is None else _level(start, absolute, f"{path}.from"),
            _level(end, absolute, f"{path}.to"),
            **(form | {key: given[key] for key in ("levels",) if key in given}),
            length=given.get("for"),
            name=f"{path}.for",
        )
    except UsageError as error:
        raise UsageError(f"{path}.{error}") from None
    return phase, end


def _open(path: str, given: Mapping[str, Any], start: float | None) -> Free:
    """An inverse_sqrt that falls on and on."""
    if given["shape"] != "inverse_sqrt" or "to" in given or "levels" in given or start is None:
        raise UsageError(
            f"{path}.timescale is for {{shape: inverse_sqrt, from: 1, timescale: 10%}} without to"
        )
    peak = float(start)
    return Free(
        InverseSqrt(peak),
        given["timescale"],
        f"{path}.timescale",
        given.get("for"),
        f"{path}.for",
    )


def _repeat(path: str, given: Mapping[str, Any], absolute: bool) -> Repeat:
    times, shared = given.get("times"), 0.0
    for first in given["repeat"][:1]:
        _check_start(f"{path}.repeat", first, absolute)
    rounds: list[Phase] = []
    level: float | None = 1.0
    for index, phase in enumerate(given["repeat"]):
        at = f"{path}.repeat.{index}"
        if isinstance(phase, Mapping) and "repeat" in phase:
            raise UsageError(f"{at}: a repeat cannot stand in a repeat")
        item, level = _item(at, phase, absolute, level)
        if not isinstance(item, Phase):
            raise UsageError(f"{at}.timescale cannot stand in a repeat")
        if item.length is not None:
            shared += _share_of_round(phase["for"], f"{at}.for", times)
        elif times is None:
            raise UsageError(f"{at}.for must be given, or `times` beside the repeat")
        rounds.append(item)
    if not rounds:
        raise UsageError(f"{path}.repeat must have at least one phase")
    rest = any(phase.length is None for phase in rounds)
    if times is not None and not (shared < 100 if rest else shared == 100):
        raise UsageError(f"{path}.repeat: the phases of a round must be 100% of it together")
    return Repeat(
        tuple(rounds),
        decay=given.get("decay", 1.0),
        growth=given.get("growth", 1.0),
        floor=_level(given.get("floor", 0.0), absolute, f"{path}.floor"),
        count=times,
        length=given.get("for"),
        name=f"{path}.for",
    )


def _share_of_round(duration: Duration, key: str, times: int | None) -> float:
    amount, unit = parse(key, duration)
    if times is not None and unit != "%":
        raise UsageError(f"{key} must be a % of its round beside `times`, got {show(duration)}")
    return amount


def _level(value: float, absolute: bool, name: str) -> Level:
    return Absolute(value, name) if absolute else float(value)
