"""Composes overrides into the configuration of a run, or into those of a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import MarkedYAMLError  # type: ignore[import-untyped]
from yaml.reader import ReaderError  # type: ignore[import-untyped]

from lit_optim.config.finishing import finish_config
from lit_optim.config.own_files import OwnFiles, own_search_path
from lit_optim.config.paths import quote
from lit_optim.config.places import conf_dir, groups, own_conf_dir, text_of
from lit_optim.config.run_names import name_run
from lit_optim.errors import UsageError, first_line

MOST_RUNS = 10_000  # of a sweep; more is a mistake, or work for a search
LONG = 100  # values of a range
PLUGINS = ("hydra.launcher.", "hydra.sweeper.")
OmegaConf.register_new_resolver("run_name", name_run, replace=True)


def compose_config(overrides: list[str]) -> DictConfig:
    """Compose the configuration of these overrides, with Hydra's own part.

    Raises:
        UsageError: it does not compose.
    """
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", [*own_choices(), *overrides], return_hydra_config=True)
            finish_config(cfg, cfg.hydra)
        set_hydra_config(cfg)
        return cfg
    except UsageError:
        raise
    except RecursionError:
        if OwnFiles.last is None:
            raise
        # each file is read once, so the last one closes the circle
        raise UsageError(f"{OwnFiles.last}: its defaults lead back to the file itself") from None
    except MarkedYAMLError as error:
        where = error.problem_mark
        place = f"{where.name}:{where.line + 1}: " if where else ""
        raise UsageError(f"{place}{error.problem}") from None
    except ReaderError as error:
        raise UsageError(f"{error.name}: {first_line(error)}") from None
    except UnicodeDecodeError:
        for path in [*conf_dir().rglob("*.yaml"), *(own_conf_dir() or conf_dir()).rglob("*.yaml")]:
            text_of(path)  # raises if it is this one
        raise
    except InterpolationResolutionError as error:
        key = f"{error.full_key}: " if error.full_key else ""
        raise UsageError(f"{key}{first_line(error)}") from None
    except (HydraException, OmegaConfBaseException) as error:
        why = first_line(error)
        if why.startswith("Error merging override ") and error.__cause__:  # of a plugin's schema
            why = f"{why.removeprefix('Error merging override ')}: {first_line(error.__cause__)}"
        raise UsageError(why) from None
    except (
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
    ) as error:  # raised by OmegaConf itself
        if not overrides:
            raise
        compose_config(overrides[:-1])  # raises if one of these is to blame
        raise UsageError(
            f"{overrides[-1].lstrip('+')} cannot be put there; a list is given whole, as in "
            "key=[a,b]"
        ) from error


def own_choices() -> list[str]:
    """The override that adds a directory of the user's own choices to Hydra's search path."""
    own = own_search_path()
    return [] if own is None else [f"hydra.searchpath=[{quote(own)}]"]


def set_hydra_config(cfg: DictConfig) -> None:
    """Let a configuration that is not running yet resolve `${hydra:...}`."""
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.runtime.output_dir = "."  # only a run has one, and its value is not used here
    HydraConfig.instance().set_config(cfg)


def compose_each_value(overrides: list[Override]) -> Iterator[DictConfig]:
    """Compose configurations in which every swept value occurs; not all combinations."""
    fixed = [
        as_hydra_override(override) for override in overrides if not override.is_sweep_override()
    ]
    swept = {o.key_or_group: _lines(o) for o in overrides if o.is_sweep_override()}
    first = {key: lines[0] for key, lines in swept.items()}
    cfg = compose_config([*fixed, *first.values()])
    yield cfg
    for key, lines in swept.items():
        for line in lines[1:]:
            if key in groups():
                yield compose_config([*fixed, *(first | {key: line}).values()])
            else:  # set in place: composing again for each of many values takes long
                before = OmegaConf.select(cfg, key)
                value = OverridesParser.create().parse_override(line).value()
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
                yield cfg
                OmegaConf.update(cfg, key, before, merge=False, force_add=True)


def _lines(override: Override) -> list[str]:
    """An override for each value of a sweep; of an interval or a long range for its two ends."""
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        values = [str(sweep.start), str(sweep.end)]
    else:
        values = list(override.sweep_string_iterator())
    if isinstance(sweep, RangeSweep) and len(values) > LONG:
        values = [values[0], values[-1]]
    return [f"{hydra_key(override)}={value}" for value in values]


def check_run_count(overrides: list[Override]) -> None:
    """Refuse a sweep of too many runs.

    Raises:
        UsageError: too many, with their number.
    """
    runs = math.prod(len(override_values(override)) for override in overrides)
    if runs > MOST_RUNS:
        raise UsageError(
            f"-m asks for {runs:,} runs, but at most {MOST_RUNS:,} are allowed; sweep over fewer "
            "values"
        )


def override_values(override: Override) -> list[object]:
    """The value of an override, or all values that it sweeps over.

    Raises:
        UsageError: nothing to sweep over, or too much, or what only a search could draw.
    """
    if not override.is_sweep_override():
        return [override.value()]
    line = override.input_line
    if not override.is_discrete_sweep():
        raise UsageError(f"{line} is only for a search; list its values, separated by commas")
    try:
        values = [str(value) for value in islice(override.sweep_string_iterator(), MOST_RUNS + 1)]
    except (ValueError, TypeError, ArithmeticError) as error:  # also of decimal: range(0,nan)
        why = str(error) if isinstance(error, ValueError | TypeError) else "no such range"
        raise UsageError(f"{line} cannot be swept over: {why}") from None
    if not values:
        raise UsageError(f"{line}: there is nothing to sweep over")
    if len(values) > MOST_RUNS:
        raise UsageError(f"{line}: more than {MOST_RUNS:,} values; sweep over fewer")
    return [value.strip("'\"") for value in values]


def as_hydra_override(override: Override) -> str:
    """An override in a form that Hydra takes, whichever `+` it was typed with."""
    if override.is_delete():
        return str(override.input_line)
    typed = str(override.input_line).partition("=")[2]
    return f"{hydra_key(override)}={typed}"


def hydra_key(override: Override) -> str:
    """The key for Hydra: of a group as it is, of a value forced; `check_config` decides later."""
    key = override.get_key_element().lstrip("+")
    name = override.key_or_group
    if name.startswith(PLUGINS):  # some take keys that they do not list
        return f"++{key}"
    hydras = name in groups() or "/" in name or name.startswith("hydra.")
    return key if hydras else f"++{key}"
