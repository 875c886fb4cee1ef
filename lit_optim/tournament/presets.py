"""Writes the lrs that a tournament has found into the presets of its data."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf

from lit_optim.config.places import conf_dir, groups, own_conf_dir, text_of
from lit_optim.errors import UsageError
from lit_optim.results.reading import read_run
from lit_optim.results.tournament_record import Entry, Task, Tournament, read_tournament
from lit_optim.runs.job import JobRecord, read_job
from lit_optim.runs.layout import FINAL, UNTUNED
from lit_optim.runs.status import Status
from lit_optim.search.composing import compose_study
from lit_optim.temporary import write_whole
from lit_optim.tournament.lines import compose_parts
from lit_optim.tournament.planning import key_of
from lit_optim.tournament.treatment import LR, treat

PRESET = "preset"
TUNED = "tuned_lr"
MEANING = "best lr found per optimizer; all others keep their default"
BEGIN = re.compile(rf"^{TUNED} *:(?P<rest>.*)$")
ITEM = re.compile(r"^(?P<indent> +)(?P<name>[\w.-]+) *: *(?P<value>[^ #]+)(?P<comment> *#.*| *)$")
#: What hardly changes at which lr a run is best, and what the preset is for: where data lies, how
#: often and on how much is validated, what is shown, what runs where. A tournament may be shorter
#: or longer than the runs that later take its lrs.
OF_ANY_RUN = re.compile(
    r"data|data\.(path|root|num_workers|pin_memory)|optimizer|optimizer\.lr|seed|test|threads|n_jobs|"
    r"allow|(logger|hydra|search|tournament)(\..+)?|"
    r"trainer\.(enable_\w+|check_val_every_n_epoch|val_check_interval|num_sanity_val_steps|"
    r"limit_(val|test)_batches|log_every_n_steps|max_steps|max_epochs|threads)"
)
HEAD = "# @package _global_\n"
#: Belongs to a package that was installed, where an update would overwrite it.
INSTALLED = "site-packages"


@dataclass(frozen=True)
class Tuned:
    """The lrs that were found on some data.

    Args:
        preset: its name, that of the data.
        lrs: by optimizer.
        left_out: why, of each optimizer whose lr is not taken over.
        usual: the optimizers that are better at their own default lr, which they keep.
    """

    preset: str
    lrs: Mapping[str, float]
    left_out: Mapping[str, str]
    usual: Collection[str] = ()


def find_tuned(sweep_dir: Path) -> list[Tuned]:
    """The lrs at which the optimizers of a tournament were compared, for the data of each task.

    Raises:
        UsageError: it is not a tournament of optimizers, has not ended, or has several tasks on the
            same data.
    """
    tournament = read_tournament(sweep_dir)
    check_tasks(tournament, str(sweep_dir))
    found: list[Tuned] = []
    for task in tournament.tasks:
        one = _tuned_on(sweep_dir, task)
        if one.preset in [other.preset for other in found]:
            raise _ambiguous(str(sweep_dir), one.preset)
        found.append(one)
    return found


def check_tasks(tournament: Tournament, source: str) -> None:
    """Refuse a tournament whose tasks cannot give the lrs of presets, before it is run.

    Args:
        tournament: as it is planned.
        source: of what the message tells.

    Raises:
        UsageError: it is not between optimizers, or has several tasks on the same data.
    """
    if tournament.by != "optimizer":
        raise UsageError(
            f"{source}: compares {tournament.by}, and a preset has an lr for each optimizer"
        )
    counts = Counter(task.label.get("data", "") for task in tournament.tasks)
    data, count = counts.most_common(1)[0]
    if count > 1:
        raise _ambiguous(source, data)


def _ambiguous(source: str, data: str) -> UsageError:
    on = f"with data={data}" if data else "on the same data"
    return UsageError(
        f"{source}: has several tasks {on}, and a preset has one lr for each optimizer"
    )


def _tuned_on(sweep_dir: Path, task: Task) -> Tuned:
    lrs: dict[str, float] = {}
    left_out: dict[str, str] = {}
    usual: list[str] = []
    data = ""
    for entry in task.entries:
        records = _finals(sweep_dir, entry)
        data = records[0].choices.get("data", data) if records else data
        lr, why = _lr_of(entry, records)
        if lr is None:
            left_out[entry.contestant] = why
        elif _is_better_untuned(sweep_dir / entry.study):
            usual.append(entry.contestant)
            left_out[entry.contestant] = "is better at its own default lr"
        else:
            lrs[entry.contestant] = lr
    if not data or not (lrs or usual):
        raise UsageError(f"{sweep_dir}: has no final runs yet; let the tournament finish first")
    return Tuned(data, lrs, left_out, usual)


def _is_better_untuned(study: Path) -> bool:
    """Whether the runs at the default lr have the better mean: few trials can miss a good lr."""
    means = []
    for role in (FINAL, UNTUNED):
        runs = [read_run(path, []) for path in sorted((study / role).glob("seed=*"))]
        signs = [1 if run.mode == "max" else -1 for run in runs]
        values = [sign * run.value for sign, run in zip(signs, runs, strict=True)]
        means.append(sum(values) / len(values) if values else math.nan)
    tuned, untuned = means
    return untuned > tuned or (math.isnan(tuned) and not math.isnan(untuned))


def _finals(sweep_dir: Path, entry: Entry) -> list[JobRecord]:
    """The records of the runs at the best trial that have ended."""
    records = map(read_job, sorted((sweep_dir / entry.study / FINAL).glob("seed=*")))
    return [record for record in records if record is not None and record.is_done]


def _lr_of(entry: Entry, records: list[JobRecord]) -> tuple[float | None, str]:
    """The lr of a contestant's final runs; or None, and why it is not taken over."""
    if not records:
        return None, "has no run at a best lr"
    if all(record.status is Status.DIVERGED for record in records):
        return None, "diverged at its best lr"
    if entry.contestant not in groups()["optimizer"]:
        return None, "is not a choice of optimizer"
    values = {key_of(line): line.partition("=")[2] for line in records[0].overrides}
    other = _find_other(values, entry.contestant, records[0].choices.get("data", ""))
    if other:
        return None, f"has its lr with {other}={values[other]}, which a preset does not set"
    try:
        lr = float(values[LR])
    except (KeyError, ValueError):
        lr = math.nan
    if not 0 < lr < math.inf:  # a record may say anything
        return None, "was not searched for its lr"
    return lr, ""


def _find_other(values: Mapping[str, str], optimizer: str, data: str) -> str | None:
    """The first key of a run that a run of this optimizer on this data has not by itself.

    Args:
        values: of its overrides, by key.
        optimizer: by name.
        data: by name.
    """
    left = [key for key in values if not OF_ANY_RUN.fullmatch(key)]
    if not left:
        return None
    own = treat(compose_parts([f"optimizer={optimizer}", "preset=none"]), (), "steps")
    treated = own.lines  # not what gives it an lr at all: without that it takes none
    left = [key for key in left if treated.get(key) != values[key]]
    try:
        usual = compose_study([f"data={data}", f"optimizer={optimizer}"]) if left else None
    except UsageError:  # data that is gone
        usual = None
    return next((k for k in left if usual is None or not _is_usual(usual, k, values[k])), None)


def _is_usual(usual: DictConfig, key: str, text: str) -> bool:
    """Whether a configuration has a value by itself."""
    if key in groups():
        return bool(usual.hydra.runtime.choices.get(key) == text)
    known = OmegaConf.select(usual, key)
    shown = "null" if known is None else str(known)
    try:
        return shown.lower() == text.lower() or float(shown) == float(text)
    except ValueError:
        return False


def write_preset(tuned: Tuned) -> Path:
    """Write lrs into the preset of some data; its other lines and comments stay.

    Returns:
        The file.

    Raises:
        UsageError: it belongs to an installed package, cannot be written, or is not written in a
            way that can be edited.
    """
    path = find_preset(tuned.preset)
    before = text_of(path) if path.exists() else f"{HEAD}# Settings for data={tuned.preset}\n"
    lrs = {name: lr_text(lr) for name, lr in tuned.lrs.items()}
    after = edit_preset(before, lrs, path, tuned.usual)
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, after)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def find_preset(data: str) -> Path:
    """The file that has the lrs for some data: beside it, in the checkout or in --config-dir.

    Raises:
        UsageError: it belongs to an installed package.
    """
    known, own = groups(), own_conf_dir()
    path = known[PRESET].get(data)
    if path is None:
        beside = known["data"].get(data)
        if beside is None or data == "custom":
            raise UsageError(
                f"data={data}: no preset can be written for it; give the data its own name"
            )
        path = beside.parent.parent / PRESET / f"{data}.yaml"
    is_own = own is not None and path.is_relative_to(own)
    if (not is_own and INSTALLED in path.parts) or not os.access(path.parent.parent, os.W_OK):
        raise UsageError(
            f"{path} belongs to the package {conf_dir().parent.name}, which is installed; take a "
            "checkout, or data of your own in --config-dir"
        )
    return path


def lr_text(lr: float) -> str:
    """An lr with two digits, such as 6.3e-3."""
    if 1 <= lr < 100:
        return f"{lr:.2g}"
    mantissa, _, exponent = f"{lr:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def edit_preset(text: str, lrs: Mapping[str, str], path: Path, usual: Collection[str] = ()) -> str:
    """Put lrs into the text of a preset: known names are replaced, new ones added in their order.

    Args:
        text: YAML.
        lrs: by optimizer.
        path: of the file, for messages.
        usual: optimizers whose lr is removed.

    Raises:
        UsageError: the text is not written in a way that can be edited by lines.
    """
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if BEGIN.match(line)), None)
    if start is None:
        at = _after_comments(lines)
        items, end, head = [], at, f"{TUNED}: # {MEANING}"
    else:
        at, end, head = start, start + 1, lines[start]
        while end < len(lines) and (ITEM.match(lines[end]) or _is_inner_comment(lines[end])):
            end += 1
        items = lines[start + 1 : end]
        head = re.sub(r": *\{ *\}", ":", head)
    new = dict(lrs)
    kept = []
    for line in items:
        match = ITEM.match(line)
        if match and match["name"] in usual:
            continue
        if match and match["name"] in new:
            value = new.pop(match["name"])
            line = f"{match['indent']}{match['name']}: {value}{match['comment'].rstrip()}"
        kept.append(line)
    indent = next((m["indent"] for line in kept if (m := ITEM.match(line))), "  ")
    for name, value in new.items():
        kept.insert(_place(kept, name), f"{indent}{name}: {value}")
    after = "\n".join([*lines[:at], head, *kept, *lines[end:]]) + "\n"
    _check_edit(text, after, lrs, path, usual)
    return after


def _after_comments(lines: list[str]) -> int:
    """Behind the comments that a file begins with."""
    return next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _is_inner_comment(line: str) -> bool:
    return bool(re.match(r" +#", line))


def _place(items: list[str], name: str) -> int:
    """Where a name belongs among sorted ones."""
    for number, line in enumerate(items):
        match = ITEM.match(line)
        if match and match["name"] > name:
            return number
    return len(items)


def _check_edit(
    before: str, after: str, lrs: Mapping[str, str], path: Path, usual: Collection[str]
) -> None:
    """Refuse an edit after which the file says anything else than it should."""
    try:
        old, new = _load(before), _load(after)
        known = {name: lr for name, lr in (old.get(TUNED) or {}).items() if name not in usual}
        expected = old | {TUNED: known | {name: float(value) for name, value in lrs.items()}}
        said = new.get(TUNED) or {}
        new[TUNED] = {name: _number(value) for name, value in said.items()}
        expected[TUNED] = {name: _number(value) for name, value in expected[TUNED].items()}
        is_right = new == expected
    except (yaml.YAMLError, TypeError, ValueError, AttributeError):
        is_right = False
    if not is_right:
        words = ", ".join(f"{name}: {value}" for name, value in lrs.items())
        raise UsageError(
            f"{path}: {TUNED} is not written as a line for each optimizer; write it yourself: "
            f"{words}"
        )


def _load(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text)
    return dict(found) if found is not None else {}


def _number(value: Any) -> Any:
    """A number also where plain YAML sees text, as in 5e-5."""
    return float(value) if isinstance(value, int | float | str) else value
