"""Translates `hf=args.yaml` and `hf.key=value` on the command line into our overrides."""

from __future__ import annotations

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lit_optim.compat import transformers_arguments as hf
from lit_optim.compat.transformers_tables import DECIDE
from lit_optim.config.composing import override_values
from lit_optim.config.paths import strip_quotes
from lit_optim.config.reading import check_multirun, parse_overrides
from lit_optim.errors import UsageError

HF = re.compile(r"\+{0,2}hf(?=[.=]|$)")
LENGTH = {"trainer.max_steps", "trainer.max_epochs"}


def translate_overrides(
    theirs: list[str], own: list[Override], multirun: bool
) -> tuple[list[str], str]:
    """Translate `hf...`; the user's own overrides take precedence. Also name what is left out.

    Raises:
        UsageError: a key that contradicts an override, or cannot be translated.
    """
    file, typed, swept = _parse_arguments(theirs, multirun)
    here = {override.key_or_group: override for override in own}
    given = hf.merge(file, typed)
    for group in [group for group in DECIDE if group in here]:
        both = [f"hf.{key}" for key in DECIDE[group] if given.get(key) is not None]
        if both:
            line = here[group].input_line
            raise UsageError(f"{line} and {', '.join(both)}: both choose the {group}; give one")
    if "experiment" in here and override_values(here["experiment"]) != ["none"]:
        raise UsageError(
            f"{here['experiment'].input_line} and hf both choose; give only one of them"
        )
    first = _lines(given, here)
    lines = dict(first)
    for key, values in swept.items():
        runs = [_lines(hf.merge(file, typed | {key: value}), here) for value in values]
        moved = {k for run in runs for k, value in run.items() if value != first.get(k)}
        if len(moved) != 1 or any(run.keys() != first.keys() for run in runs):
            raise UsageError(f"hf.{key} cannot be swept: it is not one key here; sweep ours")
        [ours] = moved
        lines[ours] = ",".join(run[ours] for run in runs)
    return [f"{key}={value}" for key, value in lines.items()], hf.describe_untranslated(given)


def _parse_arguments(
    lines: list[str], multirun: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]:
    """The keys of the file, those that were typed, and the values to sweep over."""
    file: dict[str, Any] = {}
    typed: dict[str, Any] = {}
    swept: dict[str, list[Any]] = {}
    for line in lines:
        key, equals, text = HF.sub("", line, count=1).removeprefix(".").partition("=")
        bare = text.strip("'\"")
        if not equals:
            raise UsageError(f"cannot read {line!r}; write hf=args.yaml or hf.learning_rate=3e-4")
        if not key:
            file = hf.read(strip_quotes(text))
        elif key == "optim_args" or (key == "lr_scheduler_kwargs" and '"' in bare):
            typed[key] = bare  # a string for transformers; Hydra would parse it
        else:
            [override] = parse_overrides([f"hf.{key}={text}"])
            if override.is_sweep_override():
                check_multirun(override, multirun)
                read = OverridesParser.create().parse_override
                swept[key] = [read(f"hf={value}").value() for value in override_values(override)]
            typed[key] = swept[key][0] if key in swept else override.value()
    return file, typed, swept


def _lines(given: dict[str, Any], here: dict[str, Override]) -> dict[str, str]:
    """The translation, without the keys that the user overrides."""
    lengths = LENGTH & here.keys()
    if lengths:
        given = {k: v for k, v in given.items() if k not in ("max_steps", "num_train_epochs")}
    if lengths == {"trainer.max_steps"}:  # fractions of the run are counted in these
        steps = here["trainer.max_steps"].value()
        given |= {"max_steps": steps} if isinstance(steps, int) else {}
    ours = dict(line.split("=", 1) for line in hf.translate(given))
    chosen = tuple(f"{group}." for group in DECIDE if group in here)
    return {k: v for k, v in ours.items() if k not in here and not k.startswith(chosen)}
