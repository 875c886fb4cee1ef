"""The combinations of a race, composed and checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from lit_optim.command_line.combinations import compose_combinations
from lit_optim.errors import UsageError
from lit_optim.race.landscapes import Landscape, find_landscapes

ON = "on="
DEFAULT = "rosenbrock"
#: The parts of a run's configuration that a race uses. Others would have no effect.
USED = ("optimizer", "scheduler", "wrapper", "schedules", "allow")
#: A picture with more paths than this is unreadable.
MOST = 32


def split_landscapes(lines: Sequence[str]) -> tuple[list[Landscape], list[str]]:
    """The landscapes of `on=rosenbrock,beale`, and the other overrides.

    Raises:
        UsageError: there is no such landscape.
    """
    on = [line.removeprefix(ON) for line in lines if line.startswith(ON)]
    landscapes = find_landscapes(on[-1] if on else DEFAULT)
    return landscapes, [line for line in lines if not line.startswith(ON)]


def compose_entrants(lines: Sequence[str], steps: int) -> list[tuple[str, Any]]:
    """Compose each combination of the values in these overrides, with a name.

    A schedule runs over the steps of the race. Without one the lr is constant.

    Raises:
        UsageError: a mistake, or an override that has no effect on a race.
    """
    for line in lines:
        key = line.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] not in USED:
            hint = "; --steps=N is its length" if key == "trainer.max_steps" else ""
            raise UsageError(f"{line} has no effect on a race, which takes {', '.join(USED)}{hint}")
    keys = [line.lstrip("+").partition("=")[0] for line in lines]
    more = [f"trainer.max_steps={steps}", "trainer.max_epochs=-1", "preset=none"]
    more += [] if "scheduler" in keys else ["scheduler=none"]
    found = list(islice(compose_combinations([*lines, *more]), MOST + 1))
    if len(found) > MOST:
        raise UsageError(f"a race has at most {MOST} combinations of values, but more were given")
    return found
