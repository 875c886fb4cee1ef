"""What a report is made of: runs as they were read, the rows that compare them, and the whole.

Readers make these, figures, pages and tables show them. Nothing here reads or draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_optim.runs.layout import FINAL
from lit_optim.runs.status import Status


@dataclass(frozen=True)
class History:
    """The validations of a run, as in its `history.csv`; all of one length.

    Args:
        step: the updates made before each.
        seconds: of training, without the validations; NaN where it is not known.
        evaluations: of gradients, each of one batch; NaN where it is not known.
        lr: of the first group.
        metrics: the values of each validation metric, NaN where it was not logged.
    """

    step: Sequence[int] = ()
    seconds: Sequence[float] = ()
    evaluations: Sequence[float] = ()
    lr: Sequence[float] = ()
    metrics: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a run stands in a search.

    Args:
        root: the directory of the search.
        study: the name of its study; empty where there is one only.
        role: `trial`; in a tournament also `final` or `untuned`.
        trial: its number; None of a run that is no trial's.
        searched: the keys that the sampler of its study decides.
        metric: by which the search judges.
        mode: `min` or `max`.
        at: whether the `final` or the `best` value of the metric counts.
    """

    root: Path
    study: str
    role: str
    trial: int | None = None
    searched: Sequence[str] = ()
    metric: str = ""
    mode: str = "min"
    at: str = "final"


@dataclass(frozen=True)
class Run:
    """A run, as its directory tells it.

    Args:
        directory: of the run.
        status: how it ended.
        overrides: as typed, by key, without those of the whole sweep.
        choices: of each group, by its name.
        settings: every value of the configuration, by its dotted key.
        monitor: the metric by which it is judged; empty if it does not say so.
        mode: `min` or `max`.
        value: the last value of `monitor`; of a diverged run the worst finite one; NaN if unknown.
        best: its best value.
        finals: the last value of every validation metric.
        bests: the best value of those of which it is known whether low or high is better.
        tests: by metric.
        steps: updates made.
        seconds: of training.
        history: its validations.
        command: that reproduces it.
        message: one line on how it ended, if that needs one.
        place: in a search; None of any other.
        only_tests: whether it trains nothing: its optimizer is not that of the checkpoint.
    """

    directory: Path
    status: Status
    overrides: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    monitor: str = ""
    mode: str = "min"
    value: float = math.nan
    best: float = math.nan
    finals: Mapping[str, float] = field(default_factory=dict)
    bests: Mapping[str, float] = field(default_factory=dict)
    tests: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = math.nan
    history: History = History()
    command: str = ""
    message: str = ""
    place: Place | None = None
    only_tests: bool = False

    @property
    def seed(self) -> str:
        """The seed as text; empty if it is not known."""
        return str(self.settings.get("seed", self.overrides.get("seed", "")))

    @property
    def has_ended(self) -> bool:
        """Whether its value counts: it went to its end, or diverged, or does not say."""
        return self.status.counts

    @property
    def ms_per_step(self) -> float:
        """Milliseconds of training an update, without validations where those are known."""
        steps, seconds = self.steps, self.seconds
        if self.history.step and math.isfinite(self.history.seconds[-1]):
            steps, seconds = self.history.step[-1], self.history.seconds[-1]
        return 1000 * seconds / steps if steps > 0 else math.nan


@dataclass(frozen=True)
class Interval:
    """A mean, and the half width of its 95 % confidence interval.

    Args:
        mean: NaN without values.
        half: by Student's t; NaN of fewer than three values.
        count: of the values.
    """

    mean: float
    half: float
    count: int


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed only.

    Args:
        values: of the columns by which settings differ, in the order of the columns.
        lr: the peak learning rate; NaN if the optimizer has none.
        runs: at least one.
        value: of the metric over the runs that have ended, one for each seed.
        so_far: of the metric over those that have not.
        trial: the number of the trial; None of anything else.
    """

    values: Mapping[str, str]
    lr: float
    runs: Sequence[Run]
    value: Interval
    so_far: Interval = Interval(math.nan, math.nan, 0)
    trial: int | None = None

    @property
    def is_diverged(self) -> bool:
        """Whether every run that has ended diverged: its value is another run's."""
        ended = [run for run in self.runs if run.has_ended]
        return bool(ended) and all(run.status is Status.DIVERGED for run in ended)


@dataclass(frozen=True)
class Row:
    """A choice: the settings that differ in the lr and the like, and the best of them.

    Args:
        values: of the columns that tell the choices apart, such as the optimizer.
        settings: of this choice, by lr.
        best: the one with the best mean.
        edge: `first` or `last` where the best lr is the smallest or the largest of several tried.
        default_lr: where none is typed: of the preset for the data, else of the optimizer; NaN if
            unknown.
        rank: 1 for the best; rows that cannot be told apart share it; None without a value.
        is_tied: whether others have this rank.
        steps_to_target: the median over the runs of the best setting; inf where at least half of
            them never arrived; NaN without a target.
        seconds: of training, the median over the runs of the best setting.
        ms_per_step: likewise.
        counts: of the runs of all settings, by how they ended.
        untuned: in a tournament, the runs at the optimizer's default lr.
        notes: on how it was treated otherwise than the rest, a clause each.
    """

    values: Mapping[str, str]
    settings: Sequence[Setting]
    best: Setting
    edge: str
    default_lr: float
    rank: int | None
    is_tied: bool
    steps_to_target: float
    seconds: float
    ms_per_step: float
    counts: Mapping[Status, int]
    untuned: Setting | None = None
    notes: Sequence[str] = ()

    @property
    def is_at_best(self) -> bool:
        """Whether it is shown at the best of its settings; a tournament has other runs for that."""
        return any(self.best is one for one in self.settings)

    @property
    def has_failed(self) -> bool:
        """Whether it has no value, as all runs that could give one failed."""
        finals = [run for run in self.best.runs if run.place and run.place.role == FINAL]
        runs = finals or [run for one in self.settings for run in one.runs]
        return not self.best.value.count and all(run.status is Status.FAILED for run in runs)

    @property
    def groups(self) -> list[Setting]:
        """Its settings; in a tournament also those of the final and of the untuned runs."""
        others = [self.best, *([self.untuned] if self.untuned else [])]
        known = {id(one) for one in self.settings}
        return [*self.settings, *(one for one in others if id(one) not in known)]


@dataclass(frozen=True)
class Report:
    """Everything that a table, a page or a figure shows.

    Args:
        title: a few words, such as the name of the directory.
        metric: by which the rows are ranked.
        mode: `min` or `max`.
        columns: the keys that tell rows apart, in the order in which they were swept.
        rows: best first.
        runs: all of them, also those without a value.
        target: of the metric; NaN: none.
        notes: lines for the reader, such as files that could not be read.
        varied: the keys by which the settings of a row differ, such as `optimizer.lr`.
        at: whether the `final` or the `best` value of a run counts.
    """

    title: str
    metric: str
    mode: str
    columns: Sequence[str]
    rows: Sequence[Row]
    runs: Sequence[Run]
    target: float = math.nan
    notes: Sequence[str] = ()
    varied: Sequence[str] = ()
    at: str = "final"


@dataclass(frozen=True)
class Profile:
    """How soon contestants reach the targets of several tasks, beside the fastest at each.

    Args:
        contestants: best first.
        ratios: of each contestant, the cost of each task divided by that of the fastest there; inf:
            it never arrives.
        scores: the area below each profile, from 0 to 1.
        measure: what the cost is: `step`, `evaluations` or `seconds`.
        tau: the largest ratio that counts.
    """

    contestants: Sequence[str]
    ratios: Mapping[str, Sequence[float]]
    scores: Mapping[str, float]
    measure: str
    tau: float


@dataclass(frozen=True)
class Tournament:
    """A tournament of several tasks; that of a single one is a report.

    Args:
        title: a few words.
        by: the key that tells contestants apart.
        names: of the tasks, a few words each.
        tasks: a report of each; its rows are the contestants.
        profile: over all tasks; None while no task has a target.
        notes: lines for the reader about the whole.
    """

    title: str
    by: str
    names: Sequence[str]
    tasks: Sequence[Report]
    profile: Profile | None
    notes: Sequence[str] = ()

    @property
    def runs(self) -> list[Run]:
        """Those of all tasks."""
        return [run for task in self.tasks for run in task.runs]
