"""Translates TrainingArguments of transformers into our overrides.

They give the optimizer, schedule, clipping and weight decay groups that its Trainer would build.
transformers is not imported.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lit_optim.compat.transformers_tables import (
    HANDED_ON,
    HARMLESS,
    HERE,
    NEAREST,
    OPTIMS,
    SCHEDULES,
    USUAL,
    VARIANT,
    WAVES,
    Arguments,
    Row,
)
from lit_optim.config.paths import expand_home
from lit_optim.config.places import as_hydra_loads, groups
from lit_optim.errors import UsageError, explain_unknown, show, suggest
from lit_optim.hyperparameters import accepts, describe, hints_of
from lit_optim.signatures import Parameter, read_signature
from lit_optim.untrusted import Unreadable, read_json, read_yaml

PLAIN = re.compile(r"[\w./%+-]*")  # what needs no quotes on the command line
A_TYPO = 0.8  # similarity of a typo and the key that was meant
KEYS = hints_of(Arguments)


def read(path: str) -> dict[str, Any]:
    """Read TrainingArguments, all or some, from a YAML or JSON file.

    Raises:
        UsageError: there is no such file, it cannot be read, or a key of it is mistyped.
    """
    file, why = Path(expand_home(path)), ""
    try:
        is_json = file.suffix == ".json"
        found = read_json(file) if is_json else read_yaml(file, as_hydra_loads)
    except Unreadable as error:
        why = str(error).removeprefix(f"{file}")
        if not os.path.isfile(file):
            raise UsageError(f"hf={path}{why}") from None
        found = None
    if not isinstance(found, dict) or list(found.values()) == [None]:  # a lone word is no key
        raise UsageError(
            f"hf={path} is not YAML or JSON with keys and values, as to_json_string() writes "
            f"it{why}"
        )
    given = {str(key): value for key, value in found.items()}
    for key in given:
        near = difflib.get_close_matches(key, KEYS, n=1, cutoff=A_TYPO)
        if near and near != [key] and not HARMLESS.fullmatch(key):
            raise UsageError(f"hf={path}: unknown key {key}; did you mean {near[0]}?")
    return given


def merge(file: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the keys of a file with typed ones such as `lr_scheduler_kwargs.num_cycles`.

    Raises:
        UsageError: a key that is not translated was typed.
    """
    given = dict(file)
    for path, value in typed.items():
        key, _, inner = path.partition(".")
        if key in HERE or HARMLESS.fullmatch(key):
            raise UsageError(f"hf.{key} is not translated; {_say(key) or 'leave it out'}")
        if key not in KEYS:
            raise UsageError(explain_unknown("hf", key, KEYS))
        if not inner:
            given[key] = value
        elif key in ("lr_scheduler_kwargs", "optim_args"):
            given[key] = _mapping(key, given.get(key)) | {inner: value}
        else:
            raise UsageError(f"unknown key hf.{path}; hf.{key} is a single value")
    return given


def translate(arguments: Mapping[str, Any]) -> list[str]:
    """Translate TrainingArguments to our overrides; keys that are not given have its defaults.

        translate({"warmup_steps": 100})
        ["optimizer=adamw", "optimizer.lr=5e-05", ..., "scheduler=linear_warmup", ...]

    The length of the run, the batches per update and the seed are ours if they are not given.

    Raises:
        UsageError: a wrong value, or one without a counterpart.
    """
    given = _check_arguments(arguments)
    made = _optimizer(given) | _schedule(given) | _run(given, arguments.keys())
    return [f"{key}={_text(value)}" for key, value in made.items()]


def describe_untranslated(arguments: Mapping[str, Any]) -> str:
    """Name the keys without a counterpart, in one line; those that change no update are counted."""
    given, void = _check_arguments(arguments), []
    name, row = _optim(given), _row(given)
    if not row.warmup:
        void += ["warmup_steps", "warmup_ratio"]
    if row.ignores:
        void += ["lr_scheduler_kwargs"]
    if "adam" not in OPTIMS[name]:
        void += ["adam_beta1", "adam_beta2", "adam_epsilon"]
    void = [key for key in void if arguments.get(key, 0) not in (0, None, getattr(Arguments, key))]
    passed = _mapping("optim_args", given.optim_args)
    void += [f"optim_args.{key}" for key in passed if key not in HANDED_ON.get(name, ())]
    parts = [f"{key} (without effect in transformers too)" for key in void]
    counted = 0
    for key in arguments.keys() - KEYS.keys():
        value = arguments[key]
        if HARMLESS.fullmatch(key):
            counted += 1
        elif value and value != USUAL.get(key):
            shown = f"={value}" if isinstance(value, int | float) else ""  # others may be secret
            parts.append(f"{key}{shown}" + (f" ({_say(key)})" if key in HERE else ""))
    parts.sort()
    if counted:
        parts.append(f"{counted} of files, logs and devices")
    return ", ".join(parts)


def _say(key: str) -> str:
    return f"use {HERE[key]}" if key in HERE else ""


def _check_arguments(arguments: Mapping[str, Any]) -> Arguments:
    known = {key: value for key, value in arguments.items() if key in KEYS}
    return Arguments(**{key: _check_value(key, value, KEYS[key]) for key, value in known.items()})


def _optim(given: Arguments) -> str:
    """The name of the optimizer in transformers."""
    name = "adafactor" if given.adafactor else given.optim
    if name in NEAREST:
        nearest, how = NEAREST[name]
        same = VARIANT.sub("", name)
        ours = same in groups()["optimizer"] and same not in OPTIMS.values()
        more = f", or optimizer={same}" if ours else ""
        raise UsageError(f"hf.optim={name} is not available; use hf.optim={nearest}, {how}{more}")
    if name not in OPTIMS:
        near = suggest(name, [*OPTIMS, *NEAREST]) or f"; it is one of {', '.join(OPTIMS)}"
        raise UsageError(f"unknown hf.optim {name!r}{near}")
    return name


def _optimizer(given: Arguments) -> dict[str, Any]:
    name = _optim(given)
    ours, passed = OPTIMS[name], _mapping("optim_args", given.optim_args)
    if passed and name == "adamw_anyprecision":
        raise UsageError(
            "hf.optim_args of adamw_anyprecision are not available: its state is float32"
        )
    made: dict[str, Any] = {"lr": given.learning_rate}
    if "adam" in ours:
        made |= {"betas": [given.adam_beta1, given.adam_beta2], "eps": given.adam_epsilon}
    made["weight_decay"] = given.weight_decay
    if ours == "adafactor_hf":
        made |= {"scale_parameter": False, "relative_step": False}
    for key in HANDED_ON.get(name, ()):
        if key in passed:
            annotation = _parameters("optimizer", ours)[key].annotation
            value = _as_transformers_reads(passed[key], annotation)
            made[key] = _check_value(f"optim_args.{key}", value, annotation)
    return {"optimizer": ours} | {f"optimizer.{key}": value for key, value in made.items()}


def _row(given: Arguments) -> Row:
    name, known = given.lr_scheduler_type, SCHEDULES
    if name not in known:
        near = suggest(name, known) or f"; it is one of {', '.join(known)}"
        raise UsageError(f"unknown hf.lr_scheduler_type {name!r}{near}")
    cycles = _mapping("lr_scheduler_kwargs", given.lr_scheduler_kwargs).get("num_cycles", 0.5)
    return WAVES if name == "cosine" and cycles != 0.5 else known[name]


def _schedule(given: Arguments) -> dict[str, Any]:
    name, row = given.lr_scheduler_type, _row(given)
    passed = _mapping("lr_scheduler_kwargs", given.lr_scheduler_kwargs)
    passed = {k: v for k, v in passed.items() if v is not None and not row.ignores}
    for key in passed:
        if key not in row.arguments:
            takes = ", ".join(row.arguments) or "none"
            near = suggest(key, row.arguments) or f" (it takes {takes})"
            raise UsageError(f"hf.lr_scheduler_kwargs.{key} is not an argument of {name}{near}")
    if row.one_of and len(passed.keys() & set(row.one_of)) != 1:
        raise UsageError(
            f"hf.lr_scheduler_type={name} needs {' or '.join(row.one_of)} in hf.lr_scheduler_kwargs"
        )
    if row is SCHEDULES["cosine"]:
        passed = {}  # our cosine is its half wave
    made = dict(row.fixed)
    if row.warmup:
        made = {row.warmup: _warmup(given, row)} | made
    for key, value in passed.items():
        annotation = _parameters("scheduler", row.ours)[row.arguments[key]].annotation
        made[row.arguments[key]] = _check_value(f"lr_scheduler_kwargs.{key}", value, annotation)
    if row.ours == "polynomial" and not made["min_lr"] < given.learning_rate:
        raise UsageError(
            f"hf.learning_rate={given.learning_rate:g} must be above lr_end={made['min_lr']:g}"
        )
    if "mode" in made:  # it follows a metric, by a name that our models do not declare
        metric = (given.metric_for_best_model or "loss").removeprefix("eval_")
        made["monitor"] = f"val/{metric}"
    return {"scheduler": row.ours} | {f"scheduler.{key}": value for key, value in made.items()}


def _warmup(given: Arguments, row: Row) -> int | float | str:
    """Updates, or a fraction of the run if its length is not known yet."""
    if given.warmup_steps >= 1:
        return int(given.warmup_steps)
    share = given.warmup_steps or given.warmup_ratio or 0.0
    if not share or given.max_steps > 0:
        return math.ceil(given.max_steps * share) if share else 0
    if row.warmup == "num_warmup_steps":
        return share  # rounded up, as transformers does
    return f"{(100 * Decimal(str(share))).normalize():f}%+"  # so is this


def _run(given: Arguments, keys: Iterable[str]) -> dict[str, Any]:
    if given.bf16 and given.fp16:
        raise UsageError("hf.bf16 and hf.fp16: give only one of them")
    made: dict[str, Any] = {
        "param_groups": "transformers",
        "trainer.gradient_clip_val": given.max_grad_norm or None,
    }
    if given.max_steps > 0:
        made["trainer.max_steps"] = given.max_steps
    elif "num_train_epochs" in keys:
        if given.num_train_epochs != int(given.num_train_epochs):
            epochs = f"{given.num_train_epochs:g}"
            raise UsageError(
                f"hf.num_train_epochs={epochs} is not a whole number; use hf.max_steps"
            )
        made["trainer.max_epochs"] = int(given.num_train_epochs)
    if (
        "gradient_accumulation_steps" in keys
    ):  # here, an epoch's last update may be of fewer batches
        made["trainer.accumulate_grad_batches"] = given.gradient_accumulation_steps
    if given.bf16 or given.fp16:
        made["trainer.precision"] = "bf16-mixed" if given.bf16 else "16-mixed"
    return made | ({"seed": given.seed} if "seed" in keys else {})


def _mapping(key: str, value: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`{num_cycles: 2}`, its JSON, or `momentum=0.9,nesterov=true`."""
    if not isinstance(value, str):
        return dict(value or {})
    try:
        if key == "optim_args":
            pairs = [pair.split("=") for pair in value.replace(" ", "").split(",") if pair]
            return dict(pairs)
        found = json.loads(value or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        form = "momentum=0.9,nesterov=true" if key == "optim_args" else "{num_cycles: 2}"
        raise UsageError(f"hf.{key} must look like {form}, got {show(value)}")
    return found


def _as_transformers_reads(value: Any, annotation: Any) -> Any:
    """A value of optim_args, which are strings."""
    if annotation is bool:
        return str(value).lower() in ("true", "1", "yes")
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _check_value(key: str, value: Any, annotation: Any) -> Any:
    if not accepts(value, annotation):
        raise UsageError(f"hf.{key} must be {describe(annotation)}, got {show(value)}")
    return value


@cache
def _parameters(group: str, name: str) -> dict[str, Parameter]:
    """The arguments of one of our choices, read from its source."""
    node: Any = OmegaConf.load(groups()[group][name])
    signature = read_signature(node["_target_"])
    assert signature is not None
    return signature.parameters


def _text(value: Any) -> str:
    """A value as typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if "${" in text:
        raise UsageError(
            f"{text!r} cannot be translated: an interpolation is ours, not transformers'"
        )
    return text if PLAIN.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"
