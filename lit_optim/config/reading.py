"""Parses arguments of the command line as overrides."""

from __future__ import annotations

import re
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException

from lit_optim.config.old_keys import rename_override
from lit_optim.config.places import conf_dir, groups, own_conf_dir
from lit_optim.errors import UsageError
from lit_optim.schedules.formula import FORMULA_ARGUMENTS
from lit_optim.schedules.shapes import NUMBERED, STAIRCASE

#: Limits of an argument, its key, its nesting and its whole numbers. Beyond them it is a slip, and
#: too much for Hydra, the file system or torch.
MOST_CHARACTERS, MOST_OF_KEY, MOST_DEPTH, MOST_WHOLE = 1 << 16, 255, 32, 2**63 - 1
#: A shape with a number, which Hydra would parse as a function call.
SHAPE = re.compile(rf"(^|[\s:,\[{{])((?:{'|'.join([*NUMBERED, STAIRCASE])})\([^()'\"]*\))")


def search_path() -> Any:
    """Where Hydra looks for choices: in conf/, in its own, and in the user's directory."""
    path = create_config_search_path(str(conf_dir()))
    if (own := own_conf_dir()) is not None:
        path.append("command-line", f"file://{own}")
    return path


def parse_overrides(lines: list[str]) -> list[Override]:
    """Parse arguments as overrides.

    Raises:
        UsageError: one cannot be read.
    """
    parser = OverridesParser.create(ConfigLoaderImpl(search_path()))  # used by glob()
    overrides = []
    for line in map(rename_override, lines):
        key = line.partition("=")[0]
        if not key.strip("+~"):
            raise UsageError(f"{line!r} has no key; write key=value")
        if len(line) > MOST_CHARACTERS:
            raise UsageError(
                f"{key}: has {len(line):,} characters, but at most {MOST_CHARACTERS:,} are allowed"
            )
        if len(key.encode(errors="replace")) > MOST_OF_KEY:
            raise UsageError(f"unknown key {key}")
        try:
            overrides += parser.parse_overrides([_quote_formula(line)])
        except HydraException:
            if meant := _choices_named(line):
                raise UsageError(f"cannot read {line!r}; write {' or '.join(meant)}") from None
            raise UsageError(
                f"cannot read {line!r}; write key=value, or \"key='value'\" where the value has "
                "characters such as = , [ ]"
            ) from None
        except ValueError:  # Python reads no whole number of more than 4,300 digits
            raise UsageError(f"{key}: {TOO_LARGE}") from None
        except RecursionError:
            raise UsageError(f"{key}: {TOO_DEEP}") from None
        _check_size(key, overrides[-1].value(), MOST_DEPTH)
    return overrides


def _choices_named(word: str) -> list[str]:
    """The overrides that choose something of this name, in any group."""
    return [f"{group}={word}" for group, choices in groups().items() if word in choices]


TOO_LARGE = f"a whole number must be from -{MOST_WHOLE:,} to {MOST_WHOLE:,}"
TOO_DEEP = f"more than {MOST_DEPTH} lists or mappings within each other"


def _check_size(key: str, value: Any, depth: int) -> None:
    """Refuse, anywhere in a value, what no key takes."""
    if isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise UsageError(f"{key}: {TOO_LARGE}")
    if isinstance(value, Sweep):
        inner = [getattr(value, name, None) for name in ("list", "start", "stop", "step")]
    else:
        inner = [*value.values()] if isinstance(value, dict) else value
    if isinstance(inner, list):
        if depth == 0:
            raise UsageError(f"{key}: {TOO_DEEP}")
        for one in inner:
            _check_size(key, one, depth - 1)


def _quote_formula(line: str) -> str:
    """Put a formula into the quotes that Hydra needs, and that the shell has removed.

    The same for a shape with a number, such as power(1.5).
    """
    key, equals, value = line.partition("=")
    listed = key.rpartition(".")[2] in ("phases", "shape", "schedules", "schedulers")
    if listed or key.startswith("schedules."):
        return key + equals + SHAPE.sub(r"\1'\2'", value)
    if (
        key.rpartition(".")[2] not in FORMULA_ARGUMENTS
        or not value.strip()
        or value.startswith("choice(")
    ):
        return line
    parts, depth = [""], 0
    for sign in value:  # a comma outside of brackets separates values of a sweep
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    quoted = [p if p[:1] in ("'", '"') else "'" + p.replace("'", "\\'") + "'" for p in parts]
    return key + equals + ",".join(quoted)


def check_multirun(override: Override, multirun: bool) -> None:
    """Refuse several values for a key in a single run."""
    if override.is_sweep_override() and not multirun:
        raise UsageError(f"{override.input_line}: several values; to run each of them, add -m")
