"""Checks a composed configuration against what its parts accept; without importing torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lit_optim.config.hints import dotted_keys, suggest_key
from lit_optim.config.places import conf_dir, groups, target_of
from lit_optim.config.resume_settings import NONE, check_resume
from lit_optim.config.settings import Settings
from lit_optim.config.sweep_settings import SWEEP_GROUPS
from lit_optim.config.targets import (
    KINDS,
    MULTI_GROUPS,
    TARGET,
    check_allowed,
    check_arguments,
    check_function,
    check_required,
    class_name,
    find_targets,
    locate,
    may_be_allowed,
)
from lit_optim.config.trainer import OWN_KEYS, TAKES, check_trainer, run_length
from lit_optim.config.typed_ranges import narrow_ranges
from lit_optim.errors import UsageError, show, suggest
from lit_optim.hyperparameters import accepts, describe
from lit_optim.moved_names import current_name
from lit_optim.requirements import is_far_lr
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.durations import Horizon, parse_duration
from lit_optim.schedules.formula import FORMULA_ARGUMENTS, dotted_function
from lit_optim.schedules.hyperparameter_schedules import parse_hyperparameter_schedules
from lit_optim.schedules.registry import is_schedule
from lit_optim.schedules.scheduled_hyperparameter import check_range, read_value
from lit_optim.signatures import Parameter, Signature, read_attribute, read_signature

BEST = "best"  # of the run, as `ckpt`

#: Groups whose choice is one object.
SINGLE_GROUPS = (
    "optimizer",
    "wrapper",
    "scheduler",
    "lr_rule",
    "param_groups",
    "model",
    "data",
    "trainer",
)
#: Arguments that the run passes to a constructor; nobody else may.
PASSED_BY_RUN = {
    "optimizer": ("params",),
    "wrapper": ("base",),
    "param_groups": ("module",),
}


def check_config(cfg: DictConfig) -> None:
    """Refuse a configuration that would train something other than what was typed.

    Names, keys, types and ranges are checked against the annotations of the constructors, which
    are read from source; schedules are built, as that needs no data.

    Raises:
        UsageError: the first thing that is wrong, in one line.
    """
    plain = to_plain(cfg)
    settings = read_signature(f"{Settings.__module__}.{Settings.__qualname__}")
    assert settings is not None
    _check_settings(plain, settings)
    allow = allowed_packages(plain)
    for package in allow:
        if not all(part.isidentifier() for part in package.split(".")):
            raise UsageError(f"allow={package!r} is not the name of a package")
        if not may_be_allowed(package):
            raise UsageError(f"allow={package} is refused: it is not your own package")
    for name in (*SINGLE_GROUPS, *MULTI_GROUPS):
        for path, node in find_targets(name, plain[name]):
            known = KINDS.get(name) or _shipped_targets(name) if _is_choice(path, name) else ()
            check_allowed(f"{path}.{TARGET}", node[TARGET], known, allow)
    for name in SINGLE_GROUPS:
        _check_node(name, plain[name], plain)
    for group in MULTI_GROUPS:
        for name, node in plain[group].items():
            _check_node(f"{group}.{name}", node, plain)
    check_trainer(plain["trainer"])
    _check_schedule(plain)
    _check_schedules(plain)
    _check_batch(OmegaConf.select(cfg, "hydra.runtime.choices.batch"), plain)
    check_resume(plain["resume"])
    _check_branch(plain)
    _check_job(plain)


def _is_choice(path: str, group: str) -> bool:
    """Whether a node is what a group chooses, not a part of that."""
    chosen_in = path.rpartition(".")[0] if group in MULTI_GROUPS else path
    return chosen_in == group


def _check_batch(choice: str | None, plain: Mapping[str, Any]) -> None:
    """Refuse values of an experiment or the command line that contradict batch=..."""
    for path, choices, wanted in (
        ("data.batch_size", ("single",), 1),
        ("trainer.accumulate_grad_batches", ("single", "full"), 1),
    ):
        group, key = path.split(".")
        given = plain[group].get(key, wanted)
        if choice in choices and given != wanted:
            raise UsageError(f"batch={choice} needs {path}={wanted}, but it is {show(given)}")


def _check_branch(plain: Mapping[str, Any]) -> None:
    where = plain["branch_from"]
    if where is None:
        return
    if not os.path.isfile(where):
        raise UsageError(f"branch_from={where} is not a file; give runs/.../checkpoints/last.ckpt")
    if plain["weights"] is not None:
        raise UsageError("branch_from continues from the weights of a run; leave out weights")
    if plain["resume"]["from"] not in (None, NONE) or not plain["train"]:
        raise UsageError("branch_from starts a new run; leave out resume and train=false")
    amount, unit = parse_duration("cooldown", plain["cooldown"])
    if unit not in ("step", "%") or amount <= 0 or (unit == "%" and amount >= 100):
        raise UsageError(
            f"cooldown must be updates, or a share < 100%, got {show(plain['cooldown'])}"
        )


def _check_job(plain: Mapping[str, Any]) -> None:
    train, test, ckpt = plain["train"], plain["test"], plain["ckpt"]
    if not train and not test:
        raise UsageError("train=false test=false leaves nothing to do")
    if ckpt is not None and not test:
        raise UsageError(f"ckpt={ckpt} says what to test, but test=false")
    if not train and plain["weights"] is not None:
        raise UsageError(
            f"weights={plain['weights']} begins a training; with train=false, give ckpt"
        )
    begins = plain["resume"]["from"] in (None, NONE)  # else its checkpoint has them
    if plain["weights"] is not None and begins and not os.path.isfile(plain["weights"]):
        raise UsageError(f"weights={plain['weights']} is not a file")
    if train and ckpt not in (None, BEST):
        raise UsageError(
            f"ckpt={ckpt} is only tested; add train=false (to train further, use resume=DIR or "
            "weights=FILE instead)"
        )
    if not train and (ckpt is None or not os.path.isfile(ckpt)):
        given = "" if ckpt is None else f"; {ckpt} is not a file"
        raise UsageError(f"train=false needs ckpt=runs/.../checkpoints/best.ckpt, a file{given}")
    keepers = [node for node in plain["callbacks"].values() if "Checkpoint" in class_name(node)]
    off = plain["trainer"].get("enable_checkpointing") is False
    if ckpt == BEST and (off or not keepers):
        raise UsageError("ckpt=best needs a checkpoint callback, and there is none")


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Convert a configuration to plain containers, interpolations resolved, without Hydra's part.

    Raises:
        UsageError: a key without a value, or an interpolation that leads nowhere.
    """
    visible = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        plain = OmegaConf.to_container(visible, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = error.full_key or error.key
        is_missing = isinstance(error, MissingMandatoryValue | InterpolationToMissingValueError)
        why = explain_no_value(str(key)) if is_missing else str(error.msg or error).splitlines()[0]
        raise UsageError(f"{key}: {why}") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def explain_no_value(key: str) -> str:
    """What to say of a key without a value; of a class, how one is given."""
    is_class = key.endswith(f".{TARGET}")
    return "must be given" + (f", such as {key}=yours.Name allow=[yours]" if is_class else "")


def allowed_packages(plain: Mapping[str, Any]) -> list[str]:
    """The setting `allow` as a list."""
    allow = plain["allow"]
    return [allow] if isinstance(allow, str) else list(allow)


def _check_settings(plain: dict[str, Any], settings: Signature) -> None:
    chosen = groups()  # reads directories: once
    known = [*settings.parameters, *chosen]
    for key, value in plain.items():
        if key in SWEEP_GROUPS:
            continue  # what plans the sweep checks them
        if key in chosen and key not in (*SINGLE_GROUPS, *MULTI_GROUPS):
            raise UsageError(f"{key} has no keys of its own{_choices(key)}")
        if key not in known:
            others = [name for name in dotted_keys(plain) if name.split(".")[0] in known]
            raise UsageError(f"unknown key {key}{suggest_key(key, known, others)}")
        if key in settings.parameters:
            annotation = settings.parameters[key].annotation
            if value == "" or not accepts(value, annotation):
                raise UsageError(f"{key} must be {describe(annotation)}, got {show(value)}")
    for name in (*settings.parameters, *SINGLE_GROUPS):
        if name not in plain or (name in SINGLE_GROUPS and plain[name] is None):
            raise UsageError(f"{name} is required{_choices(name)}")
    for name in MULTI_GROUPS:
        if not isinstance(plain.get(name), Mapping):
            raise UsageError(f"{name} is required{_choices(name)}")


def _shipped_targets(name: str) -> tuple[str, ...]:
    """The classes of the listed choices of a group; the user's own classes need `allow`."""
    return tuple(
        target_of(path) for path in groups()[name].values() if path.is_relative_to(conf_dir())
    )


def _choices(name: str) -> str:
    choices = groups().get(name)
    return f"; one of {', '.join(choices)}" if choices else ""


def _check_node(path: str, node: Any, plain: Mapping[str, Any]) -> None:
    if node is None:
        raise UsageError(f"{path} cannot be null; to leave it out, use ~{path}")
    if not isinstance(node, Mapping):
        raise UsageError(
            f"{path} must be one of its choices by name, got {show(node)}{_choices(path)}"
        )
    if TARGET not in node:
        raise UsageError(f"{path} has no {TARGET}: the class to make")
    signature = read_signature(node[TARGET])
    if signature is None:
        return
    if path == "optimizer":
        signature = narrow_ranges(node[TARGET], signature)
    passed = PASSED_BY_RUN.get(path, ())
    own = {key: value for key, value in signature.parameters.items() if key not in passed}
    if path == "trainer":
        own |= {key: Parameter(TAKES[key], required=False) for key in OWN_KEYS}
    signature = Signature(own, signature.open)
    for key in passed:
        if node.get(key) is not None:
            raise UsageError(f"{path}.{key} is given by the run")
    given = {k: v for k, v in node.items() if k not in passed}
    check_arguments(path, given, signature, dotted_keys(plain))
    if path not in ("model", "data"):  # these may take what is missing from each other
        check_required(path, node, signature, given=set())


def _check_schedule(plain: dict[str, Any]) -> None:
    node, trainer = plain["scheduler"], plain["trainer"]
    if not current_name(node[TARGET]).startswith(KINDS["scheduler"]):
        raise UsageError(
            f"scheduler.{TARGET}={node[TARGET]}: {class_name(node)} is not one of "
            "lit_optim.schedules"
        )
    for path, dotted in _functions("scheduler", node):
        check_function(path, dotted, allowed_packages(plain))
    try:
        schedule = make_schedule(node)
        if schedule is None:
            return
        lr = lr_of(plain["optimizer"])
        as_given = class_name(plain["lr_rule"]) == "none"  # else it depends on the batch
        if lr is not None and as_given:
            schedule.check(lr)
        # the data, which are read later, give epochs and samples their length
        if schedule.units <= {"step", "%"}:
            total = schedule.total
            steps = run_length(trainer) if total is None else int(parse_duration("total", total)[0])
            if steps is not None:
                schedule.curve(Horizon(steps))
    except UsageError as error:
        raise UsageError(f"scheduler.{error}") from None


def _check_schedules(plain: Mapping[str, Any]) -> None:
    """Check the schedules of other hyperparameters, before there is an optimizer."""
    optimizer, steps = plain["optimizer"], run_length(plain["trainer"])
    signature = read_signature(optimizer[TARGET])
    for one in parse_hyperparameter_schedules(plain["schedules"]):
        name = one.key.split(".")[0]
        if name == class_name(plain["wrapper"]).lower():
            continue
        known = [k for k, v in optimizer.items() if k not in (TARGET, "lr")]
        if name not in known:
            near = suggest(name, known) or f"; it has {', '.join(known)}"
            raise UsageError(f"{one.path}: {class_name(optimizer)} has no {name}{near}")
        own = read_value(optimizer, one.key, one.path)
        if one.schedule is None or not one.schedule.units <= {"step", "%"} or not steps:
            continue
        try:
            curve = one.schedule.curve(Horizon(steps)) if one.schedule.total is None else None
        except UsageError as error:
            raise UsageError(f"{one.path}.{error}") from None
        if curve is not None and signature is not None and isinstance(own, int | float):
            hint = narrow_ranges(optimizer[TARGET], signature).parameters[name].annotation
            check_range(one.path, one.key, curve, own, optimizer[name], hint)


def make_schedule(node: Mapping[str, Any]) -> Schedule | None:
    """Build the schedule of a checked node; None for no schedule.

    Raises:
        UsageError: its target is no schedule, or refuses its arguments.
    """
    make = locate("scheduler", node[TARGET])
    if not is_schedule(make):
        raise UsageError(f"{TARGET}={node[TARGET]} is not a schedule")
    schedule = make(**{key: value for key, value in node.items() if key != TARGET})
    assert schedule is None or isinstance(schedule, Schedule)
    return schedule


def lr_of(optimizer: Mapping[str, Any]) -> float | None:
    """The lr of an optimizer's node, the largest of several; transformers' Adafactor needs none."""
    named = [value for key, value in optimizer.items() if key == "lr" or key.endswith("_lr")]
    return max((value for value in named if isinstance(value, int | float)), default=None)


def unusual_lr_warning(optimizer: Mapping[str, Any]) -> str | None:
    """A warning if the lr of an optimizer's node is far outside of its usual range, or None."""
    low, high = read_attribute(optimizer[TARGET], "lr_range") or (0.0, math.inf)
    lr = optimizer.get("lr")
    if not isinstance(lr, int | float) or not is_far_lr(lr, (low, high)):
        return None
    return (
        f"optimizer.lr={lr} is far from the usual range of "
        f"{class_name(optimizer)}, {low:g} to {high:g}"
    )


def _functions(path: str, node: Any) -> Iterator[tuple[str, str]]:
    """Every value that would be imported: the functions that schedules may name, by key."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            dotted = dotted_function(value) if key in FORMULA_ARGUMENTS else None
            if dotted is not None:
                yield f"{path}.{key}", dotted
            yield from _functions(f"{path}.{key}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _functions(f"{path}.{index}", value)
