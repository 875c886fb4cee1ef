"""The matrix of optimizers, scenarios and layouts: which cases there are, and how one is judged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice
from random import Random
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from lit_optim.config.places import groups, listed_choices
from tests.optimizers.cases import CASES
from tests.sharding.cases import TOLERANCE, compare, make_case, scenarios, start, train
from tests.sharding.layouts import LAYOUTS
from tests.sharding.processes import processes

NAMES = sorted(listed_choices("optimizer"))
#: Settings of an optimizer that would otherwise enlarge the last digit of a gradient to any size:
#: SOAP and Shampoo take any eigenbasis where the first gradients have a lower rank than the longer
#: side. Prodigy would begin with steps that are too small to tell.
STABLE = {
    "lbfgs": {"lr": 0.1, "max_iter": 2},
    "prodigy": {"d0": 1e-3},
    "shampoo": {"max_precondition_dim": 6},
    "soap": {"max_precondition_dim": 6},
}
#: What some weight must move by in one process: more than a difference that is found.
LEAST = 100 * TOLERANCE
#: Layouts that cut the rows of 256 elements that are a block of an int8 state: those are refused.
CUT = {"columns of 4", "blocks of 2 x 2"}


class Place(NamedTuple):
    """A place in the matrix."""

    optimizer: str
    layout: str
    scenario: str

    def __str__(self) -> str:
        return f"{self.optimizer}, {self.layout}, {self.scenario}"


@cache
def scenarios_of(optimizer: str) -> dict[str, dict[str, Any]]:
    """What is tried with an optimizer, by name; also with one that was added a minute ago."""
    case = CASES.get(optimizer)
    return scenarios(case.settings if case else [])


def places(layouts: tuple[str, ...] = tuple(LAYOUTS)) -> Iterator[Place]:
    """The whole matrix."""
    for optimizer in NAMES:
        for layout in layouts:
            for scenario in scenarios_of(optimizer):
                yield Place(optimizer, layout, scenario)


def draw(optimizer: str, number: int, of: int) -> Place:
    """One of some places of an optimizer, always the same one.

    All layouts and scenarios come about equally often, whichever optimizers there are; a scenario
    that is not for this optimizer is passed over.
    """
    random, layouts = Random(optimizer), list(LAYOUTS)
    names = list(scenarios_of(optimizer))
    random.shuffle(names)
    layout = layouts[(NAMES.index(optimizer) * of + number) % len(layouts)]
    fitting = (name for name in names if alone(optimizer, name)[0] == "trained")
    return Place(optimizer, layout, next(islice(fitting, number, None)))


def case_of(optimizer: str, scenario: str) -> Any:
    """The case of a place, which all layouts share."""
    target = OmegaConf.load(groups()["optimizer"][optimizer])._target_
    changes = scenarios_of(optimizer)[scenario]
    settings = STABLE.get(optimizer, {}) | changes.get("settings", {})
    return make_case(target, changes | {"settings": settings})


@cache
def alone(optimizer: str, scenario: str) -> tuple[str, Any]:
    """What one process trains, as `train` returns it: "refused" where this is not for it."""
    return train(case_of(optimizer, scenario))


def judge(place: Place, world: int | None = None) -> tuple[str, Any]:
    """Compare the processes of a layout with one process.

    Args:
        place: what is trained.
        world: how many processes there are, if more than the layout has.

    Returns:
        "equal" and the largest difference of a weight; "refused" and the line; "excepted" where
        that is about int8 states in a layout that cuts their blocks; "skipped" where one process
        refuses as well; "differs" and the difference; "failed" and the traceback.
    """
    kind, expected = alone(place.optimizer, place.scenario)
    if kind != "trained":
        return "skipped", expected
    world = world or LAYOUTS[place.layout].size
    case = case_of(place.optimizer, place.scenario)
    before = start(case)
    if compare(expected[: before.size], before) < LEAST:
        return "failed", "one process does not move the weights"
    results = processes(world).run(train, case, place.layout)
    results = [result for result in results if result[0] != "outside"]
    kinds = {kind for kind, _ in results}
    if kinds == {"trained"}:
        difference = max(compare(found, expected) for _, found in results)
        return ("equal" if difference <= TOLERANCE else "differs"), difference
    texts = dict.fromkeys(value for kind, value in results if kind != "trained")
    if kinds == {"refused"} and len(texts) == 1:
        is_excepted = place.layout in CUT and place.scenario == "int8 states"
        return ("excepted" if is_excepted else "refused"), next(iter(texts))
    if len(kinds) > 1:
        processes(world).stop()  # one of them may still wait for another
    return "failed", "\n".join(texts)
