"""Schedules that the user writes as a list of phases.

Raises: ValueError naming the phase and the key, such as phases.1.for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from typing_extensions import Unpack

from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.schedules import shapes
from lit_optim.schedules.arguments import CommonArguments, Gamma
from lit_optim.schedules.durations import Duration, parse_duration
from lit_optim.schedules.phase_schedule import Phases
from lit_optim.schedules.phase_spec import (
    AbsoluteLevel,
    FormulaSegment,
    InverseSqrt,
    Level,
    Phase,
    Repeat,
    Segment,
)
from lit_optim.schedules.registry import schedule

CONSTANT = "constant"
#: The keys of a phase and of a repeat, with the values that they accept.
PHASE_KEYS: dict[str, Any] = {
    "shape": shapes.ShapeName,
    "from": Annotated[float, ">= 0"],
    "to": Annotated[float, ">= 0"],
    "for": Duration,
    "levels": Annotated[int, "> 1"],
    "timescale": Duration,
}
REPEAT_KEYS: dict[str, Any] = {
    "repeat": list[Any],
    "growth": Annotated[float, ">= 1"],
    "decay": Gamma,
    "floor": Annotated[float, ">= 0"],
    "times": Annotated[int, "> 0"],
    "for": Duration,
}
#: Other names that people give to a key, for suggestions.
SYNONYMS = {
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
#: The default of `phases`: warmup, stable, decay.
WSD: Sequence[Mapping[str, Any]] = (
    {"shape": "linear", "from": 0, "to": 1, "for": "5%"},
    {"shape": "constant", "for": "75%"},
    {"shape": "1-sqrt", "to": 0},
)


@schedule
def phases(
    phases: Sequence[Mapping[str, Any]] = WSD,
    absolute: bool = False,
    **common: Unpack[CommonArguments],
) -> Phases:
    """A list of phases, each with its levels, its shape and its length.

    lit-optim.

    Every schedule is such a list, except formulas and those that respond to a metric.

        - {shape: linear, from: 0, to: 1, for: 5%}
        - {shape: constant, for: 75%}
        - {shape: 1-sqrt, to: 0}

    The keys of a phase:

    - `shape`: constant, linear, cosine, mirror_cosine, sqrt (also called 1-sqrt), mirror_sqrt,
      square, rex, exponential, inverse_sqrt, or with a number power(1.5), polynomial(2),
      exponential(0.01), staircase(4);
    - `from`: the level at the start; by default where the previous phase ended, or 1;
    - `to`: the level at the end; a constant has none;
    - `for`: the length in steps, %, epochs or samples; one phase may omit it and takes the rest of
      the run;
    - `levels`: the number of equal parts with one level each, instead of a smooth change;
    - `timescale`: for an inverse_sqrt without `to`, which never ends: 1 / √(1 + t / timescale).

    Phases can repeat, for the length `for` or the rest of the run:

        - {repeat: [{shape: cosine, from: 1, to: 0, for: 10%}], growth: 2, decay: 0.8}

    - `growth`: multiplies the length of each round;
    - `decay`: multiplies the height of each round above `floor`;
    - `times`: the number of rounds; `for` within a round is then a % of the round.

    With `absolute`, levels are the lr itself, not factors of each group's base lr.
    """
    return Phases(_parse_phases("phases", phases, absolute), **common)


def _parse_phases(
    path: str, given: Sequence[Mapping[str, Any]], absolute: bool
) -> tuple[Segment, ...]:
    if not given:
        raise UsageError(f"{path} must have at least one phase")
    _check_keys(path, given)  # first, since below a misspelled key would be reported as missing
    _check_start(path, given[0], absolute)
    segments: list[Segment] = []
    level: float | None = 1.0
    for index, phase in enumerate(given):
        segment, level = _parse_segment(f"{path}.{index}", phase, absolute, level)
        segments.append(segment)
    open_ended = [index for index, phase in enumerate(given) if _takes_the_rest(phase)]
    if len(open_ended) > 1:  # all but the first would have length 0
        keys = " and ".join(f"{path}.{index}" for index in open_ended)
        raise UsageError(f"{keys} have no `for`: only one phase can take the rest")
    return tuple(segments)


def _check_keys(path: str, given: Sequence[Any]) -> None:
    """Reject the first unknown key."""
    for index, phase in enumerate(given):
        known = _known_keys(phase) if isinstance(phase, Mapping) else {}
        for key in phase if known else ():
            if key not in known:
                meant = SYNONYMS.get(str(key).lower())
                near = f"; did you mean {meant}?" if meant in known else suggest(str(key), known)
                near = near or f" (it takes {', '.join(known)})"
                raise UsageError(f"{path}.{index} has no key {key!r}{near}")
        if known is REPEAT_KEYS and isinstance(phase["repeat"], list | tuple):
            _check_keys(f"{path}.{index}.repeat", phase["repeat"])


def _known_keys(phase: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a phase or of a repeat; none if it is neither."""
    if phase.get("repeat") is not None:
        return REPEAT_KEYS
    return PHASE_KEYS if phase.get("shape") is not None else {}


def _check_start(path: str, first: Any, absolute: bool) -> None:
    """Require a first level if levels are absolute, since the lr cannot default to 1."""
    if absolute and isinstance(first, Mapping) and "repeat" not in first and "from" not in first:
        raise UsageError(f"{path}.0.from must be given, because levels are absolute")


def _takes_the_rest(phase: Any) -> bool:
    return isinstance(phase, Mapping) and phase.get("for") is None


def _parse_segment(
    path: str, given: Any, absolute: bool, level: float | None
) -> tuple[Segment, float | None]:
    """The segment and the level at which it ends; None if that depends on the run."""
    if isinstance(given, Mapping):
        given = {key: value for key, value in given.items() if value is not None}
    if not isinstance(given, dict) or not ("shape" in given or "repeat" in given):
        raise UsageError(
            f"{path} must be a phase such as {{shape: cosine, to: 0, for: 20%}}, got {show(given)}"
        )
    known = _known_keys(given)
    for key, value in given.items():
        if key == "for" or key == "timescale":
            _check_positive(f"{path}.{key}", value)
        elif not accepts(value, known[key]):
            raise UsageError(f"{path}.{key} must be {describe(known[key])}, got {show(value)}")
    if "repeat" in given:
        return _parse_repeat(path, given, absolute), None
    return _parse_phase(path, given, absolute, level)


def _check_positive(key: str, duration: Any) -> None:
    if parse_duration(key, duration)[0] == 0:
        raise UsageError(f"{key} must be more than 0, got {show(duration)}")


def _parse_phase(
    path: str, given: Mapping[str, Any], absolute: bool, level: float | None
) -> tuple[Segment, float | None]:
    start = given.get("from", level)
    is_constant = given["shape"] == CONSTANT
    form = {} if is_constant else shapes.parse_shape(f"{path}.shape", given["shape"])
    if "timescale" in given:
        if absolute:
            raise UsageError(f"{path}.timescale returns factors, so absolute must be false")
        return _parse_open_ended(path, given, start), None
    if is_constant and ("to" in given or "levels" in given):
        raise UsageError(f"{path}: a constant has one level, `from`; it takes no to and no levels")
    if not is_constant and "to" not in given:
        raise UsageError(f"{path}.to must be given: the level at the end of the phase")
    if is_constant and start is None:
        raise UsageError(
            f"{path}.from must be given: the level after a repeat or a phase without an end"
        )
    end = start if is_constant else given["to"]
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


def _parse_open_ended(path: str, given: Mapping[str, Any], start: float | None) -> FormulaSegment:
    """An inverse_sqrt that decays without end."""
    if given["shape"] != "inverse_sqrt" or "to" in given or "levels" in given or start is None:
        raise UsageError(
            f"{path}.timescale is for {{shape: inverse_sqrt, from: 1, timescale: 10%}} without to"
        )
    peak = float(start)
    return FormulaSegment(
        InverseSqrt(peak),
        given["timescale"],
        f"{path}.timescale",
        given.get("for"),
        f"{path}.for",
    )


def _parse_repeat(path: str, given: Mapping[str, Any], absolute: bool) -> Repeat:
    times, percent = given.get("times"), 0.0
    for first in given["repeat"][:1]:
        _check_start(f"{path}.repeat", first, absolute)
    rounds: list[Phase] = []
    level: float | None = 1.0
    for index, phase in enumerate(given["repeat"]):
        at = f"{path}.repeat.{index}"
        if isinstance(phase, Mapping) and "repeat" in phase:
            raise UsageError(f"{at}: a repeat cannot contain a repeat")
        segment, level = _parse_segment(at, phase, absolute, level)
        if not isinstance(segment, Phase):
            raise UsageError(f"{at}.timescale cannot be used in a repeat")
        if segment.length is not None:
            percent += _percent_of_round(phase["for"], f"{at}.for", times)
        elif times is None:
            raise UsageError(f"{at}.for must be given, or `times` in the repeat")
        rounds.append(segment)
    if not rounds:
        raise UsageError(f"{path}.repeat must have at least one phase")
    has_open = any(phase.length is None for phase in rounds)
    if times is not None and not (percent < 100 if has_open else percent == 100):
        raise UsageError(f"{path}.repeat: the phases of a round must add up to 100%")
    return Repeat(
        tuple(rounds),
        decay=given.get("decay", 1.0),
        growth=given.get("growth", 1.0),
        floor=_level(given.get("floor", 0.0), absolute, f"{path}.floor"),
        count=times,
        length=given.get("for"),
        name=f"{path}.for",
    )


def _percent_of_round(duration: Duration, key: str, times: int | None) -> float:
    amount, unit = parse_duration(key, duration)
    if times is not None and unit != "%":
        raise UsageError(
            f"{key} must be a % of its round, because `times` is given, got {show(duration)}"
        )
    return amount


def _level(value: float, absolute: bool, name: str) -> Level:
    return AbsoluteLevel(value, name) if absolute else float(value)
