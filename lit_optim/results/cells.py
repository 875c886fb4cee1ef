"""The cells of tables: what the terminal, the page and the CSV file show of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lit_optim.results.data import Interval, Report, Row, Run, Setting
from lit_optim.results.grouping import LR, SEED
from lit_optim.results.statistics import interval, median
from lit_optim.runs.status import Status

NONE = "-"
INTERVAL = "95 % confidence interval"
#: The columns of how runs ended; one without any run is left out.
ENDINGS = {
    "diverged": "runs that diverged, whose value is the worst of all",
    "pruned": "runs that a search has stopped",
    "failed": "runs that failed or were killed",
    "unfinished": "runs that are running or were interrupted",
}


@dataclass(frozen=True)
class Cell:
    """What a table shows in a place.

    Args:
        text: for a reader; a stranger may have written it.
        value: by which it is sorted, and which a CSV file has; None: the text.
    """

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Heading:
    """The name of a column.

    Args:
        name: a few words.
        meaning: one line; may be empty.
        is_number: whether its cells are numbers.
    """

    name: str
    meaning: str = ""
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        header: of each column.
        rows: the cells, as many as columns.
        keys: how many of the first columns tell the rows apart.
    """

    header: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    keys: int = 0


@dataclass
class _Columns:
    """Collects columns of as many cells as there are rows."""

    header: list[Heading] = field(default_factory=list)
    cells: list[list[Cell]] = field(default_factory=list)

    def add(self, heading: Heading, cells: Sequence[Cell]) -> None:
        self.header.append(heading)
        self.cells.append(list(cells))

    def table(self, keys: int) -> Table:
        return Table(self.header, list(zip(*self.cells, strict=True)), keys)


def choice_table(report: Report) -> Table:
    """A row for each row of the report, in the same order."""
    rows, columns = report.rows, _Columns()
    for key in report.columns:
        if key == LR:
            heading = Heading("lr", "edge: the best one is the first or last of those tried", True)
            columns.add(heading, [_lr_cell(row) for row in rows])
        else:
            columns.add(_key_heading(key), [_text(row.values.get(key, "")) for row in rows])
    if columns.cells:
        marked = zip(columns.cells[0], rows, strict=True)
        columns.cells[0] = [_mark(cell, row.notes, footnotes(report)) for cell, row in marked]
    for key in report.varied:
        if key == LR:
            heading = Heading("lr", "the best of those tried; edge: the first or last one", True)
            columns.add(heading, [_lr_cell(row) for row in rows])
        else:
            meaning = f"{key} of the best setting"
            columns.add(Heading(f"best {key}", meaning), [_best(row, key) for row in rows])
    which = "best" if report.at == "best" else "last"
    meaning = f"the mean of the {which} values; of three or more with its {INTERVAL}; (so far)"
    columns.add(Heading(report.metric, meaning, True), [_value_cell(row.best) for row in rows])
    counts = [_number(row.best.value.count, f"{row.best.value.count}") for row in rows]
    columns.add(Heading("n", "runs of the best setting that have ended", True), counts)
    if len(rows) > 1:
        meaning = "=: not distinguishable by Games and Howell's test"
        columns.add(Heading("rank", meaning, True), [_rank_cell(row) for row in rows])
    if any(row.untuned for row in rows):
        meaning = "the same at the lr of the optimizer itself, not of a preset, with the same seeds"
        cells = [_value_cell(row.untuned) if row.untuned else Cell(NONE) for row in rows]
        columns.add(Heading("untuned", meaning, True), cells)
    for name in _tests(report):
        meaning = f"the mean of the tests; of three or more with its {INTERVAL}"
        columns.add(Heading(name, meaning, True), [_test_cell(row.best, name) for row in rows])
    if math.isfinite(report.target):
        sign = "≤" if report.mode == "min" else "≥"
        name = f"steps to {report.metric} {sign} {report.target:g}"
        meaning = "the median; never: half of the runs do not arrive"
        cells = [_number(row.steps_to_target, format_steps(row.steps_to_target)) for row in rows]
        columns.add(Heading(name, meaning, True), cells)
    if any(math.isfinite(row.seconds) for row in rows):
        cells = [_number(row.seconds, format_seconds(row.seconds)) for row in rows]
        columns.add(Heading("seconds", "of training a run, the median", True), cells)
        cells = [_number(row.ms_per_step, format_ms(row.ms_per_step)) for row in rows]
        columns.add(Heading("ms/step", "milliseconds of an update, the median", True), cells)
    if any(row.best.trial is not None for row in rows):
        meaning = "the number of the best one, from 0"
        columns.add(Heading("trial", meaning, True), [_trial_cell(row) for row in rows])
        made = [sum(one.trial is not None for one in row.settings) for row in rows]
        if max(made) > 1:
            cells = [_number(count, str(count)) for count in made]
            columns.add(Heading("trials", "how many were made", True), cells)
    for name, meaning in ENDINGS.items():
        found = [sum(n for s, n in row.counts.items() if _ending(s) == name) for row in rows]
        if any(found):
            cells = [_number(count, str(count) if count else "") for count in found]
            columns.add(Heading(name, meaning, True), cells)
    return columns.table(len(report.columns))


def footnotes(report: Report) -> list[str]:
    """What the notes of rows say, each once, in the order of the rows."""
    return list(dict.fromkeys(note for row in report.rows for note in row.notes))


def numbered(notes: Sequence[str]) -> list[str]:
    """Footnotes with their numbers."""
    return [f"[{number}] {note}" for number, note in enumerate(notes, 1)]


def _mark(cell: Cell, notes: Sequence[str], every: Sequence[str]) -> Cell:
    """A cell with the numbers of its footnotes, by which it is not sorted."""
    marks = ",".join(str(every.index(note) + 1) for note in dict.fromkeys(notes))
    value = cell.text if cell.value is None else cell.value
    return Cell(f"{cell.text} [{marks}]", value) if marks else cell


def _trial_cell(row: Row) -> Cell:
    trial = row.best.trial
    return Cell(NONE) if trial is None else Cell(f"{trial}", trial)


def _ending(status: Status) -> str:
    """The column that counts a run."""
    if status.has_failed:
        return "failed"
    return "unfinished" if status.is_unfinished else status.value


def run_table(report: Report) -> Table:
    """A row for each run of the report, in the same order."""
    runs, columns = report.runs, _Columns()
    settings = _values_by_run(report)
    keys = [*report.columns, *report.varied]
    for key in keys:
        cells = [_text(settings[id(run)].get(key, "")) for run in runs]
        columns.add(_key_heading(key), cells)
    columns.add(Heading("seed", "", True), [_text(run.seed) for run in runs])
    if any(run.place for run in runs):
        columns.add(Heading("trial", "its number, or what else it is"), list(map(_role, runs)))
    meaning = "how it ended"
    columns.add(Heading("status", meaning), [Cell(run.status.value) for run in runs])
    values = [run.value for run in runs]
    unit = _unit(values)  # of both columns
    columns.add(Heading(report.metric, "the last value", True), _metrics(values, unit))
    best = _metrics([run.best for run in runs], unit)
    columns.add(Heading(f"best {report.metric}", "of all validations", True), best)
    for name in dict.fromkeys(name for run in runs for name in run.tests):
        values = [run.tests.get(name, math.nan) for run in runs]
        columns.add(Heading(name, "", True), _metrics(values, _unit(values)))
    cells = [_number(run.steps, format_steps(run.steps)) for run in runs]
    columns.add(Heading("steps", "updates made", True), cells)
    if any(math.isfinite(run.seconds) for run in runs):
        cells = [_number(run.seconds, format_seconds(run.seconds)) for run in runs]
        columns.add(Heading("seconds", "of training", True), cells)
        cells = [_number(run.ms_per_step, format_ms(run.ms_per_step)) for run in runs]
        columns.add(Heading("ms/step", "milliseconds of an update", True), cells)
    return columns.table(len(keys) + 1)


def _role(run: Run) -> Cell:
    """The number of a run's trial, or what else it is in its search."""
    if run.place is None:
        return Cell(NONE)
    return _text(run.place.role if run.place.trial is None else f"{run.place.trial}")


def name_row(report: Report, row: Row) -> str:
    """A short name of a row: `lion lr 0.01`; `all runs` where nothing tells rows apart."""
    named = {key: row.values.get(key) for key in report.columns}
    words = [f"lr {value}" if key == LR else value for key, value in named.items() if value]
    return " ".join(words) or "all runs"


def name_run(report: Report, run: Run) -> str:
    """A short name of a run: `lion wsd 0.001 s1`."""
    for row in report.rows:
        for setting in row.groups:
            if any(run is one for one in setting.runs):
                keys = (*report.columns, *report.varied)
                words = [setting.values.get(key, "") for key in keys]
                words += [f"s{run.seed}"] if run.seed else []
                words += [run.place.role] if run.place and run.place.trial is None else []
                return " ".join(filter(None, words)) or run.directory.name
    return run.directory.name


def _values_by_run(report: Report) -> dict[int, Mapping[str, str]]:
    found: dict[int, Mapping[str, str]] = {id(run): {} for run in report.runs}
    for row in report.rows:
        for setting in row.groups:
            found |= {id(run): {**row.values, **setting.values} for run in setting.runs}
    return found


def _key_heading(key: str) -> Heading:
    name = key.removeprefix("optimizer.") if key == LR else key
    return Heading(name, is_number=key in (LR, SEED))


def _text(text: str) -> Cell:
    """Text, which is sorted as a number if it is one."""
    try:
        return Cell(text or NONE, float(text))
    except ValueError:
        return Cell(text or NONE)


def _number(value: float, text: str) -> Cell:
    return Cell(text, value)


def _unit(values: Sequence[float]) -> tuple[float, float]:
    """A value in the middle of those of a metric, and the unit that leaves it four digits."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    middle = min(median(sizes), 1e308)  # half of a sum, which may be infinite
    return middle, 10.0 ** (_exponent(middle) - 2) if sizes else math.nan


def _metrics(values: Sequence[float], of: tuple[float, float]) -> list[Cell]:
    """Values of a metric, with the digits of a unit but for those that are far from the middle."""
    middle, unit = of
    near = [middle / 100 < abs(value) < middle * 100 for value in values]
    texts = [
        format_value(v, unit if is_near else math.nan)
        for v, is_near in zip(values, near, strict=True)
    ]
    return [Cell(text, value) for text, value in zip(texts, values, strict=True)]


def _best(row: Row, key: str) -> Cell:
    return _text(row.best.values.get(key, ""))


def _lr_cell(row: Row) -> Cell:
    lr = row.best.lr
    if math.isnan(lr):
        return _text(row.values.get(LR, row.best.values.get(LR, "")))
    return Cell(f"{lr:g} edge" if row.edge else f"{lr:g}", lr)


def _value_cell(setting: Setting) -> Cell:
    if setting.is_diverged:
        return Cell(Status.DIVERGED.value, math.nan)
    if setting.value.count or not setting.so_far.count:
        return Cell(format_interval(setting.value), setting.value.mean)
    return Cell(f"({format_value(setting.so_far.mean)})", setting.so_far.mean)


def _rank_cell(row: Row) -> Cell:
    if row.rank is None:
        return Cell(NONE, math.nan)
    return Cell(f"{row.rank}{'=' if row.is_tied else ''}", row.rank)


def _tests(report: Report) -> list[str]:
    """The tests to show: that of the metric is enough."""
    runs = [run for row in report.rows for run in row.best.runs if run.has_ended]
    names = sorted({name for run in runs for name in run.tests} - {report.metric})
    same = report.metric.rpartition("/")[2]
    return [name for name in names if name.rpartition("/")[2] == same] or names


def _test_cell(setting: Setting, name: str) -> Cell:
    by_seed = {run.seed or str(run.directory): run for run in setting.runs if run.has_ended}
    values = [run.tests[name] for run in by_seed.values() if name in run.tests]
    found = interval(values)
    return Cell(format_interval(found), found.mean)


def format_interval(found: Interval) -> str:
    """A mean with its interval, with as many digits as that allows: `0.134 ±0.012`."""
    if math.isnan(found.half):
        return format_value(found.mean)
    if not found.half:
        return f"{format_value(found.mean)} ±0"
    return f"{format_value(found.mean, found.half)} ±{format_value(found.half, found.half)}"


def format_value(value: float, error: float = math.nan) -> str:
    """A value whose digits follow its error, which keeps two; of an unknown one four digits."""
    is_known = 0 < error < math.inf
    if math.isnan(value):
        return NONE
    if not math.isfinite(value) or (value == 0 and not is_known):
        return f"{value:g}"
    # rounded first: 0.0996 is 0.10
    last = _exponent(error, 1) - 1 if is_known else _exponent(value, 3) - 3
    first = max(_exponent(one) for one in (value, error if is_known else 0.0) if one)
    if -5 < first < 6:
        return f"{value:.{max(0, -last)}f}"
    return f"{value:.{max(0, _exponent(value) - last)}e}"


def _exponent(value: float, digits: int = 16) -> int:
    """The power of ten of a value with so many digits after its first."""
    return int(f"{value:.{digits}e}".partition("e")[2])


def format_steps(steps: float) -> str:
    """A number of updates; `never` if it is infinite."""
    if math.isnan(steps):
        return NONE
    return f"{math.ceil(steps):,}" if math.isfinite(steps) else "never"


def format_seconds(seconds: float) -> str:
    """Seconds, of which nobody needs more than two digits after all: `0.97`, `4.0`, `41`."""
    return _with_digits(seconds, 2)


def format_ms(ms: float) -> str:
    """Milliseconds, with three digits."""
    return _with_digits(ms, 3)


def _with_digits(value: float, digits: int) -> str:
    """A value with so many digits, zeros included; of a larger one those before the point."""
    if not math.isfinite(value):
        return NONE
    if float(f"{abs(value):.{digits}g}") >= 10 ** (digits - 1):
        return f"{round(value):,}"
    return f"{value:#.{digits}g}"
