"""What a search is: its studies, their spaces, and how it is run. Nothing here needs Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

#: So many trials of one key are better spread evenly than learned from.
FEW_TRIALS = 12

Scalar: TypeAlias = "bool | int | float | str | None"


@dataclass(frozen=True)
class Span:
    """A range of numbers, both ends included.

    Args:
        low: the smallest.
        high: the largest, above `low`.
        is_log: whether the logarithm is what is spread evenly; then `low` is above 0.
        is_whole: whether the numbers are whole.
    """

    low: float
    high: float
    is_log: bool = False
    is_whole: bool = False


@dataclass(frozen=True)
class Choice:
    """A few values without an order.

    Args:
        values: different ones, at least two; of a list or a mapping its text.
        texts: the same as they stand behind `key=` in an override; empty: plain numbers or words.
    """

    values: tuple[Scalar, ...]
    texts: tuple[str, ...] = ()


Space: TypeAlias = Mapping[str, "Span | Choice"]
"""What a sampler decides, by key, in the order in which it was typed."""


@dataclass(frozen=True)
class Study:
    """A search of its own: what is typed with commas makes one for each combination.

    Args:
        name: of its directory below the sweep's, and in the storage; empty where there is one only.
        fixed: the overrides of all its runs, with one value a key.
        space: what is searched.
        label: the values that tell it from the others, by key.
    """

    name: str
    fixed: tuple[str, ...]
    space: Space
    label: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The settings of `search`, checked.

    Args:
        trials: of each study.
        timeout: seconds for the whole; what runs then is let finish; None: no limit.
        seeds: a run of a trial for each; the trial's value is their mean.
        sampler: `auto` depends on the study's space, see `sampler_of`.
        pruner: which trials are stopped early.
        metric: by which runs are judged.
        mode: `min` or `max`.
        at: whether the last or the best value of the metric counts.
        storage: a URL; None: `study.db` in the sweep's directory.
        seed: of the samplers.
    """

    trials: Annotated[int, "in [1, 10000]"]
    timeout: Annotated[float, "> 0"] | None = None
    seeds: tuple[Annotated[int, "in [0, 4294967295]"], ...] = (0,)
    sampler: Literal["auto", "grid", "qmc", "tpe", "gp", "random"] = "auto"
    pruner: Literal["none", "median", "percentile", "hyperband"] = "none"
    metric: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    at: Literal["final", "best"] = "final"
    storage: str | None = None
    seed: int = 0

    def sampler_of(self, space: Space) -> Literal["grid", "qmc", "tpe", "gp", "random"]:
        """The sampler of a study: `auto` is a grid of one key that fits in few trials, else TPE."""
        if self.sampler != "auto":
            return self.sampler
        fits = all(
            isinstance(one, Span) or len(one.values) <= self.trials for one in space.values()
        )
        return "grid" if len(space) <= 1 and self.trials <= FEW_TRIALS and fits else "tpe"


@dataclass(frozen=True)
class Search:
    """A search: what `search.json` in the sweep's directory says.

    Args:
        line: the overrides as typed.
        studies: at least one.
        settings: of all of them.
        name: that no other search has, for a storage where others may be as well.
    """

    line: tuple[str, ...]
    studies: Sequence[Study]
    settings: Settings
    name: str = ""


@dataclass(frozen=True)
class Trial:
    """A trial that is to be run.

    Args:
        study: its study.
        number: within the study, from 0.
        values: that the sampler proposed, by key.
    """

    study: Study
    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Args:
        kind: `failed` if a run of it crashed twice.
        value: the mean over its seeds; None of one that failed; of a diverged one a finite worst.
        attributes: for the record: directories of the runs, seconds, evaluations, steps.
    """

    kind: Literal["completed", "diverged", "pruned", "failed"]
    value: float | None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def of_runs(self, name: str) -> list[Any]:
        """An attribute that has a value for each run; empty if it is something else.

        Whoever can write to the storage may have put anything there.
        """
        found = self.attributes.get(name)
        return found if isinstance(found, list) else []
