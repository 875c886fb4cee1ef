"""The options that every optimizer has, and what they do to an update."""

from __future__ import annotations

from typing import Any, Literal

from lit_optim.errors import UsageError
from lit_optim.kernels.arithmetic import clip, dot, mean, norm, rms, sign, sqrt, square, where
from lit_optim.kernels.precision import StateDtype
from lit_optim.optimizers.base.declared import TakesTorchsArguments, option
from lit_optim.optimizers.base.types import Params, Positive


class Options(TakesTorchsArguments):
    """The options of every optimizer, beside its own hyperparameters.

    Args:
        executor: who computes the step: native, compiled kernels; torch, without a compiler; auto,
            native where possible.
        state_dtype: how signed and non-negative states are stored: float32 (float64 for float64
            parameters); bfloat16, with stochastic rounding; int8, 256 values per scale. For
            optimizers that compute each coordinate by itself.
        master: split keeps 16 more bits for each bfloat16 parameter, so that it is updated as if it
            were float32.
        maximize: ascend instead of descend.
        decay: how a decoupled weight decay follows the lr. decoupled: lr * weight_decay, as in
            AdamW; independent: (lr / peak) * weight_decay, so that the lr does not set its
            strength; corrected: (lr² / peak) * weight_decay, for layers followed by a norm (Defazio
            2025, Why Gradients Rapidly Increase Near the End of Training, arXiv:2506.02285). The
            peak is the lr of the group before any schedule.
        cautious_weight_decay: decay only the coordinates that the update moves toward zero:
            u p >= 0 (Chen et al. 2025, Cautious Weight Decay, arXiv:2510.12402, Alg. 1).
        cautious: move only the coordinates whose update agrees with their gradient, u g > 0, and
            scale these up: u / max(share of them, 1e-3) (Liang et al. 2024, Cautious Optimizers,
            arXiv:2411.16085, Alg. 1).
        clip_update: the largest root mean square of the direction u of a tensor; a larger u is
            scaled down to it.
        trust_ratio: scale the step of each tensor by |p| / |u|, with a decoupled weight decay in u;
            by 1 if either is 0 (You et al. 2019, Large Batch Optimization for Deep Learning,
            arXiv:1904.00962).
        hyperball: keep the norm of each matrix: p' = p - lr |p| u / |u|, then p = p' |p| / |p'|;
            vectors are updated as usual (Hyperball, arXiv:2606.16899). Needs weight_decay 0 and a
            higher lr, about 0.015.
    """

    params: Params
    executor: Literal["auto", "native", "torch"] = option(default="auto", kw_only=True)
    state_dtype: StateDtype = option(default="float32", kw_only=True)
    master: Literal["none", "split"] = option(default="none", kw_only=True)
    maximize: bool = option(default=False, kw_only=True)
    decay: Literal["decoupled", "independent", "corrected"] = option(
        default="decoupled", kw_only=True
    )
    cautious_weight_decay: bool = option(default=False, kw_only=True)
    cautious: bool = option(default=False, kw_only=True)
    clip_update: Positive | None = option(default=None, kw_only=True)
    trust_ratio: bool = option(default=False, kw_only=True)
    hyperball: bool = option(default=False, kw_only=True)


#: Each option and its default.
OPTIONS = {name: field.default for name, field in Options.fields.items() if name != "params"}

#: How an update is computed and stored: loading a state dict does not change these.
HOW = ("executor", "state_dtype", "master")
#: Options of a decoupled weight decay, and options that change the direction or size of a step.
OF_DECAY = ("decay", "cautious_weight_decay")
OF_STEP = ("cautious", "clip_update", "trust_ratio", "hyperball")


def check_options(name: str, group: dict[str, Any], own_step: bool, decoupled: bool) -> None:
    """Reject options that would have no effect, and options that contradict each other.

    Args:
        name: the optimizer's, for messages.
        group: its hyperparameters and options.
        own_step: whether the optimizer computes the coefficients a and b itself.
        decoupled: whether it has a decoupled weight decay.

    Raises:
        UsageError: naming the option.
    """
    for key in chosen_options(group):
        if key in OF_DECAY and not decoupled:
            raise UsageError(
                f"{key}={group[key]} is for decoupled weight decay, which {name} does not have"
            )
        if key in OF_DECAY and own_step:
            raise UsageError(f"{key}={group[key]} changes a weight decay that {name} does itself")
        if key in OF_STEP and own_step:
            raise UsageError(f"{key}={group[key]} changes a step that {name} sets itself")
    if group["hyperball"]:
        if group["trust_ratio"]:
            raise UsageError("hyperball=True and trust_ratio=True both set the step's size")
        if group.get("weight_decay"):
            raise UsageError(
                "hyperball=True keeps the norm of a matrix as it is, so weight_decay must be 0, "
                f"got {group['weight_decay']}"
            )


def chosen_options(group: dict[str, Any]) -> list[str]:
    """The options of a group that differ from their defaults."""
    return [key for key, default in OPTIONS.items() if group[key] != default]


def option_scalars(group: dict[str, Any], b: float) -> dict[str, Any]:
    """The options as `apply_update_options` reads them.

    Each combination of bools has a kernel of its own; numbers are arguments of the kernel.
    """
    clipped = group["clip_update"] is not None
    return {
        "maximize": group["maximize"],
        "cautious": group["cautious"],
        "cautious_decay": bool(group["cautious_weight_decay"] and b),
        "clipped": clipped,
        "trusting": group["trust_ratio"],
        "most": group["clip_update"] if clipped else 0.0,
    }


#: The scalars that `apply_update_options` reads.
OF_UPDATE = (
    "a", "b", "wd", "on_ball", "cautious", "cautious_decay", "clipped", "trusting", "most",
)  # fmt: skip


def has_plain_update(h: Any) -> bool:
    """Whether `apply_update_options` leaves a, b and u as they are."""
    return not (h.cautious or h.clipped or h.cautious_decay or h.trusting or h.on_ball)


def apply_update_options(u: Any, g: Any, p: Any, h: Any) -> tuple[Any, Any, Any]:
    """Change an update p = a p − b u as the options say; returns the new a, b and u.

    Args:
        u: the algorithm's direction.
        g: the gradient of the minimized loss, including a coupled weight decay.
        p: the parameter.
        h: the scalars, among them a, b, those of `option_scalars`, `wd` (the decay per b) and
            `on_ball`.
    """
    a, b = h.a, h.b
    if h.cautious:
        agrees = sign(u) * g > 0  # u g itself may underflow
        u = where(agrees, u, 0.0) / clip(mean(where(agrees, 1.0, 0.0)), 1e-3, 1.0)
    if h.clipped:
        u = u / clip(rms(u) / h.most, 1.0, float("inf"))
    if h.cautious_decay:  # decay some coordinates by u instead of all of them by a
        u, a = u + h.wd * where(sign(u) * p >= 0, p, 0.0), 1.0
    if h.trusting:
        step = u if h.cautious_decay else u + h.wd * p
        of_p, of_step = norm(p), norm(step)
        ratio = where(of_p * of_step > 0, of_p / of_step, 1.0)
        if not h.cautious_decay:
            a = 1.0 - ratio * b * h.wd
        b = ratio * b
    if h.on_ball:
        of_p, of_u = dot(p, p), dot(u, u)
        b = b * sqrt(of_p) / clip(sqrt(of_u), 1e-10, float("inf"))
        # |p − b u|² from the same pass; p and p' have the same norm
        after = of_p - 2.0 * b * dot(p, u) + square(b) * of_u
        a = where(after > 0, sqrt(of_p / after), 1.0)  # p may have been set to 0 meanwhile
        b = a * b
    return a, b, u
