"""Arguments of the command line, read as overrides."""

from __future__ import annotations

import re
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from lit_optim.config.places import conf_dir, own_conf_dir
from lit_optim.errors import UsageError
from lit_optim.schedules.expressions import FORMULAS
from lit_optim.schedules.shapes import NUMBERED, STAIRCASE

#: A shape with a number, which to Hydra would be a call.
SHAPE = re.compile(rf"(^|[\s:,\[{{])((?:{'|'.join([*NUMBERED, STAIRCASE])})\([^()'\"]*\))")


def search_path() -> Any:
    """Where Hydra looks for choices: in ours, in Hydra's, and in a directory of the user's own."""
    path = create_config_search_path(str(conf_dir()))
    if (own := own_conf_dir()) is not None:
        path.append("command-line", f"file://{own}")
    return path


def overrides_in(lines: list[str]) -> list[Override]:
    """What these arguments say.

    Raises:
        UsageError: one cannot be read.
    """
    parser = OverridesParser.create(ConfigLoaderImpl(search_path()))  # which glob() asks
    overrides = []
    for line in lines:
        try:
            overrides += parser.parse_overrides([_quoted(line)])
        except HydraException:
            raise UsageError(
                f"cannot read {line!r}; write key=value, or \"key='value'\" where the value has "
                "characters such as = , [ ]"
            ) from None
    return overrides


def _quoted(line: str) -> str:
    """A formula as the shell hands it on, in the quotes that Hydra would want around it.

    The same for a shape with a number, as power(1.5).
    """
    key, equals, value = line.partition("=")
    listed = key.rpartition(".")[2] in ("phases", "shape", "schedules", "schedulers")
    if listed or key.startswith("schedules."):
        return key + equals + SHAPE.sub(r"\1'\2'", value)
    if key.rpartition(".")[2] not in FORMULAS or not value.strip() or value.startswith("choice("):
        return line
    parts, depth = [""], 0
    for sign in value:  # at a comma outside of brackets a sweep has its next value
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    quoted = [p if p[:1] in ("'", '"') else "'" + p.replace("'", "\\'") + "'" for p in parts]
    return key + equals + ",".join(quoted)


def check_multirun(override: Override, multirun: bool) -> None:
    """Refuse several values where one is asked for."""
    if override.is_sweep_override() and not multirun:
        raise UsageError(f"{override.input_line}: several values; to run each of them, add -m")
