"""How a contestant is treated differently from others, so that it is compared fairly, or excluded.

Whatever is done here has a note, which stands below the table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_optim.config.places import groups, mapping_of
from lit_optim.config.targets import TARGET
from lit_optim.requirements import REQUIREMENTS
from lit_optim.results.tournament_record import Budget
from lit_optim.signatures import read_attribute

LR = "optimizer.lr"
#: The schedule of those that want a steady lr.
STEADY = "constant_warmup"
#: What each evaluation of the loss within an update costs: a wrapper with a closure takes two.
CLOSURE_EVALUATIONS = 2


@dataclass(frozen=True)
class Treatment:
    """What is done for one contestant.

    Args:
        lines: values of its runs, by key; they replace what they contradict.
        for_lr: values without which it takes no lr; its untuned runs are without them.
        notes: a clause for each.
        evaluations: of the gradient in an update; 0: their number is not fixed.
        own_lr: its default; None: it has none.
        refusal: why it cannot take part; empty: it can.
    """

    lines: Mapping[str, str] = field(default_factory=dict)
    for_lr: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    evaluations: int = 1
    own_lr: float | None = None
    refusal: str = ""


def treat(plain: Mapping[str, Any], typed: Collection[str], budget: Budget) -> Treatment:
    """Decide how a contestant is treated.

    Args:
        plain: a configuration of it, with its own lr.
        typed: the keys that the user has typed.
        budget: what is equal.
    """
    node, wrapper = plain["optimizer"], plain["wrapper"]
    needs = _requirements(node)
    refusal = find_refusal(plain, needs, budget)
    if refusal:
        return Treatment(refusal=refusal)
    lines: dict[str, str] = {}
    for_lr: dict[str, str] = {}
    notes = []
    evaluations = 0 if "closure" in needs else 1
    if "steady_lr" in needs:
        what = REQUIREMENTS["steady_lr"].partition(",")[0].partition(":")[0]
        if "scheduler" in typed:
            notes.append(f"{what}, and was not given a schedule of its own: one was typed")
        else:
            lines["scheduler"] = STEADY
            notes.append(f"scheduler={STEADY}: {what}")
    if "lr_of_1" in needs:
        notes.append("finds its step size itself: its lr only scales it")
    if node.get("lr", 0) is None and node.get("relative_step") is True:
        for_lr = {"optimizer.relative_step": "false", "optimizer.scale_parameter": "false"}
        told = " ".join(f"{key}={value}" for key, value in for_lr.items())
        notes.append(f"{told}: otherwise it takes no lr")
    if evaluations and "closure" in _own_requirements(wrapper):
        evaluations = CLOSURE_EVALUATIONS
        notes.append("evaluates the gradient twice per update")
    if not evaluations:
        notes.append("evaluates the gradient several times per update")
    lr = node.get("lr")
    own = float(lr) if isinstance(lr, int | float) else None
    return Treatment(lines, for_lr, tuple(notes), evaluations, own)


def find_refusal(plain: Mapping[str, Any], needs: Collection[str], budget: Budget) -> str:
    """Why a contestant cannot take part, in one clause; empty if it can."""
    if "sparse" in needs:
        return REQUIREMENTS["sparse"]
    if read_attribute(plain["optimizer"][TARGET], "takes_matrices_only"):
        return "takes only matrices"
    if "closure" in needs and budget != "seconds":
        return f"{REQUIREMENTS['closure']}, a variable number of times: no equal {budget}"
    batches = plain["trainer"].get("accumulate_grad_batches", 1)
    if "closure" in (*needs, *_own_requirements(plain["wrapper"])) and batches != 1:
        return f"{REQUIREMENTS['closure']}: not with trainer.accumulate_grad_batches={batches}"
    if "whole" in needs and plain["trainer"].get("strategy") == "fsdp":
        return REQUIREMENTS["whole"]
    return ""


def steady_keys() -> set[str]:
    """The keys of the schedule of those that want a steady lr."""
    path = groups()["scheduler"][STEADY]
    return {f"scheduler.{key}" for key in mapping_of(path) if key != TARGET}


def _requirements(node: Mapping[str, Any]) -> tuple[str, ...]:
    declared = tuple(read_attribute(node[TARGET], "requirements") or ())
    is_lbfgs = node[TARGET].endswith(".LBFGS")  # torch's own declares nothing
    return (*declared, "closure") if is_lbfgs else declared


def _own_requirements(wrapper: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(read_attribute(wrapper[TARGET], "own_requirements") or ())
