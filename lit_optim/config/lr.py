"""The optimizer's lr: typed, of an experiment, tuned for the data, or the optimizer's own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from lit_optim.config.origin import files_setting, is_typed, typed_lines
from lit_optim.config.places import conf_dir, groups, listed_choices, mapping_of, text_of
from lit_optim.config.resume_settings import AUTO, NONE
from lit_optim.config.targets import TARGET
from lit_optim.errors import UsageError, show, suggest
from lit_optim.moved_names import current_name
from lit_optim.runs.layout import FINGERPRINT, OVERRIDES
from lit_optim.untrusted import Unreadable, read_json_mapping, read_yaml

KEY = "optimizer.lr"
#: In `preset/<data>.yaml`: the lr that suits each optimizer there, by its name. One that is not
#: in it keeps its own default.
TUNED = "tuned_lr"
MORE_SPECIFIC = ("batch", "experiment", "debug")  # than a preset
SETS_LR = re.compile(r"\blr *:")
#: A file that includes another one, other than by `override /group: choice`.
INCLUDES = re.compile(r"^ *- (?!override\b)\S|^defaults *: *\[", re.MULTILINE)


def resolve_lr(cfg: DictConfig, hydra: DictConfig, run_dir: Path | None = None) -> None:
    """Give the optimizer the lr that the preset has for it, unless something more specific does.

    A run that goes on keeps the lr that it began with, if none has been typed: the files of a
    later version may have another.

    Args:
        cfg: a configuration that Hydra has composed, and is still initialized for; changed.
        hydra: Hydra's own part of it.
        run_dir: of the run, which may have begun there.

    Raises:
        UsageError: the preset has no lr for each optimizer, but one for all, or no number.
    """
    typed = [line for line in typed_lines(hydra) if line.lstrip("+~").startswith(TUNED)]
    if typed:
        raise UsageError(f"{typed[0].lstrip('+')}: {TUNED} is for files; type {KEY}")
    with read_write(cfg), open_dict(cfg):
        cfg.pop(TUNED, None)
    path = _preset(hydra)
    if path is not None:
        _check_preset(path, hydra)
    is_node = isinstance(cfg.get("optimizer"), DictConfig)
    if not is_node or is_typed(KEY, hydra) or _more_specific(hydra) is not None:
        return
    recorded = _recorded_lr(cfg, hydra, run_dir)
    lr = _tuned_lr(hydra) if recorded is None else recorded
    if lr is not None:
        with read_write(cfg), open_dict(cfg):
            cfg.optimizer.lr = lr


def lr_origin(cfg: DictConfig, hydra: DictConfig) -> str:
    """Where the lr of a finished configuration comes from.

    Args:
        cfg: the configuration.
        hydra: Hydra's own part of it.

    Returns:
        `typed`, an experiment and so on, the preset, `default`, or `as the run began`.
    """
    if is_typed(KEY, hydra):
        return "typed"
    if (specific := _more_specific(hydra)) is not None:
        return specific
    lr, tuned = cfg.optimizer.get("lr"), _tuned_lr(hydra)
    path = groups()["optimizer"].get(_choice("optimizer", hydra))
    expected = mapping_of(path).get("lr", lr) if tuned is None and path is not None else tuned
    if expected is not None and lr != expected:
        return "as the run began"
    return "default" if tuned is None else f"preset {_choice('preset', hydra)}"


def tuned_lrs(preset: str) -> dict[str, float]:
    """The lr of each optimizer in a preset of this name, by the optimizer's name.

    Raises:
        UsageError: the file cannot be read, or has something else than positive numbers.
    """
    path = groups()["preset"].get(preset)
    found = {} if path is None else mapping_of(path).get(TUNED, {})
    if not isinstance(found, Mapping):
        raise UsageError(f"{path}: {TUNED} must hold optimizers and numbers, as in `lion: 1e-4`")
    names = listed_choices("optimizer")
    for name, lr in found.items():
        if name not in names:
            raise UsageError(f"{path}: {TUNED} has an unknown optimizer {name}"
                             f"{suggest(str(name), names)}")  # fmt: skip
        if not _is_lr(lr):
            raise UsageError(f"{path}: {TUNED}.{name} must be a number > 0, got {show(lr)}")
    return {str(name): float(lr) for name, lr in found.items()}


def _tuned_lr(hydra: DictConfig) -> float | None:
    """The lr that the chosen preset, or one that it includes, has for the chosen optimizer."""
    path, optimizer = _preset(hydra), _choice("optimizer", hydra)
    if path is None:
        return None
    found = tuned_lrs(path.stem).get(optimizer)
    if found is None and INCLUDES.search(text_of(path)):
        files = files_setting([f"{TUNED}.{optimizer}"], hydra)
        found = next((one.value for one in reversed([*files]) if _is_lr(one.value)), None)
    return found


def _check_preset(path: Path, hydra: DictConfig) -> None:
    """Refuse an lr for all optimizers: one that suits AdamW is a hundred times that of Lion."""
    text = text_of(path)
    found = mapping_of(path).get("optimizer") if SETS_LR.search(text) else None
    values = [found["lr"]] if isinstance(found, dict) and "lr" in found else []
    if INCLUDES.search(text):
        files = files_setting([KEY], hydra)
        values += [one.value for one in files if one.file.startswith("preset/")]
    if values:
        raise UsageError(
            f"{path}: {KEY} would set one lr for all optimizers; write "
            f"`{TUNED}: {{adamw: {values[0]}}}`, or put it into an experiment"
        )


def _more_specific(hydra: DictConfig) -> str | None:
    """What sets the lr over a preset, as `experiment base`; None: nothing does."""
    paths = {group: groups().get(group, {}).get(_choice(group, hydra)) for group in MORE_SPECIFIC}
    texts = {group: text_of(path) for group, path in paths.items() if path is not None}
    if any(map(INCLUDES.search, texts.values())):
        files = [one.file for one in files_setting([KEY], hydra)]
        group, _, name = files[-1].partition("/") if files else ("", "", "")
        return f"{group} {name}" if group in MORE_SPECIFIC else None
    last = None
    for group, text in texts.items():
        path = paths[group]
        said = mapping_of(path).get("optimizer") if path and SETS_LR.search(text) else None
        if isinstance(said, dict) and "lr" in said:
            last = f"{group} {_choice(group, hydra)}"
    return last


def _recorded_lr(cfg: DictConfig, hydra: DictConfig, run_dir: Path | None) -> float | None:
    """The lr that the run which goes on had with the same optimizer, where our files decide it."""
    optimizer = groups()["optimizer"].get(_choice("optimizer", hydra))
    deciding = [path for path in (optimizer, _preset(hydra)) if path is not None]
    if is_typed("preset", hydra) or not all(one.is_relative_to(conf_dir()) for one in deciding):
        return None
    origin = next((x for x in (run_dir, cfg.resume.get("from"), cfg.get("branch_from"))
                   if x not in (None, NONE, AUTO)), None)  # fmt: skip
    if not isinstance(origin, str | Path):
        return None
    where = Path(origin)
    if where.is_file():  # a checkpoint
        where = where.parent.parent
    try:
        asked = read_json_mapping(where / FINGERPRINT)
        lines = read_yaml(where / OVERRIDES) if (where / OVERRIDES).is_file() else []
    except (Unreadable, OSError):
        return None
    if any(str(line).lstrip("+").startswith(f"{KEY}=") for line in lines or ()):
        return None  # it was typed, and now it is not
    target, lr = asked.get(f"optimizer.{TARGET}"), asked.get(KEY)
    is_same = isinstance(target, str) and current_name(target) == cfg.optimizer.get(TARGET)
    return lr if is_same and _is_lr(lr) else None


def _preset(hydra: DictConfig) -> Path | None:
    return groups().get("preset", {}).get(_choice("preset", hydra))


def _choice(group: str, hydra: DictConfig) -> str:
    return str(hydra.runtime.choices.get(group))


def _is_lr(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf
