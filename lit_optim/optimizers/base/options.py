"""What every optimizer takes beside its own arguments, and what that does to an update."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from lit_optim.errors import UsageError
from lit_optim.kernels.arithmetic import clip, dot, mean, norm, rms, sign, sqrt, square, where
from lit_optim.kernels.precision import StateDtype


class Options(TypedDict, total=False):
    """What every optimizer takes beside its own arguments.

    executor: who computes: native, compiled kernels; torch, without a compiler; auto, native where
        that can be.
    state_dtype: what signed and non-negative states are stored in: float32 (float64 for float64
        parameters); bfloat16, rounded by chance; int8, 256 values to a scale. For optimizers that
        look at one coordinate at a time.
    master: split keeps 16 more bits for each bfloat16 parameter, so that it is updated as if it
        were float32.
    maximize: climb instead of descend.
    decay: how a decoupled weight decay follows the lr. decoupled: lr * weight_decay, as in AdamW;
        independent: (lr / peak) * weight_decay, so that the lr does not set its strength;
        corrected: (lr² / peak) * weight_decay, for layers that a norm follows (Defazio 2025, Why
        Gradients Rapidly Increase Near the End of Training, arXiv:2506.02285). The peak is the lr
        that the group was given, before any schedule.
    cautious_weight_decay: decay only coordinates that the update moves towards zero, or not at all:
        u p >= 0 (Chen et al. 2025, Cautious Weight Decay, arXiv:2510.12402, Alg. 1).
    cautious: move only coordinates whose update goes with their gradient, u g > 0, and these by
        that much more: u / max(share of them, 1e-3) (Liang et al. 2024, Cautious Optimizers,
        arXiv:2411.16085, Alg. 1).
    clip_update: the largest root mean square that the direction u of a tensor may have; a larger u
        is scaled down to it.
    trust_ratio: scale the step of each tensor by |p| / |u|, with a decoupled weight decay in u; by
        1 if either is 0 (You et al. 2019, Large Batch Optimization for Deep Learning,
        arXiv:1904.00962).
    hyperball: move matrices on the sphere: p' = p - lr |p| u / |u|, and p = p' |p| / |p'|; vectors
        as ever (Hyperball, arXiv:2606.16899). Wants weight_decay 0 and a higher lr, about 0.015.
    """

    executor: Literal["auto", "native", "torch"]
    state_dtype: StateDtype
    master: Literal["none", "split"]
    maximize: bool
    decay: Literal["decoupled", "independent", "corrected"]
    cautious_weight_decay: bool
    cautious: bool
    clip_update: Annotated[float, "> 0"] | None
    trust_ratio: bool
    hyperball: bool


OPTIONS: Options = {
    "executor": "auto",
    "state_dtype": "float32",
    "master": "none",
    "maximize": False,
    "decay": "decoupled",
    "cautious_weight_decay": False,
    "cautious": False,
    "clip_update": None,
    "trust_ratio": False,
    "hyperball": False,
}

#: How it is computed and stored, not what: a loaded state does not change these.
HOW = ("executor", "state_dtype", "master")
#: What is for a decoupled weight decay, and what changes the direction or the size of a step.
OF_DECAY = ("decay", "cautious_weight_decay")
OF_STEP = ("cautious", "clip_update", "trust_ratio", "hyperball")


def refuse(name: str, group: dict[str, Any], own_step: bool, decoupled: bool) -> None:
    """Refuse options that could do nothing, or that contradict each other.

    Args:
        name: of the optimizer.
        group: its hyperparameters and options.
        own_step: whether the optimizer itself says what a and b are.
        decoupled: whether it has a decoupled weight decay.

    Raises:
        UsageError: naming the option.
    """
    chosen = [key for key in OPTIONS if group[key] != OPTIONS[key]]  # type: ignore[literal-required]
    for key in chosen:
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


def switches(group: dict[str, Any], b: float) -> dict[str, Any]:
    """What `moved` needs to know of the options: the bools make the kernel, the numbers do not."""
    clipped = group["clip_update"] is not None
    return {
        "maximize": group["maximize"],
        "cautious": group["cautious"],
        "cautious_decay": bool(group["cautious_weight_decay"] and b),
        "clipped": clipped,
        "trusting": group["trust_ratio"],
        "most": group["clip_update"] if clipped else 0.0,
    }


def moved(u: Any, g: Any, p: Any, h: Any) -> tuple[Any, Any, Any]:
    """A, b and u of p = a p − b u, after the options.

    Args:
        u: the algorithm's direction.
        g: the gradient of what is minimised, a coupled weight decay in it.
        p: the parameter.
        h: the scalars, among them a, b, what `switches` gives, `wd` (the decay per b) and
            `on_ball`.
    """
    a, b = h.a, h.b
    if h.cautious:
        agrees = sign(u) * g > 0  # u g itself may underflow
        u = where(agrees, u, 0.0) / clip(mean(where(agrees, 1.0, 0.0)), 1e-3, 1.0)
    if h.clipped:
        u = u / clip(rms(u) / h.most, 1.0, float("inf"))
    if h.cautious_decay:  # what a would do to all coordinates, the direction does to some
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
        # |p − b u|² from the same pass; p and p' have one norm
        after = of_p - 2.0 * b * dot(p, u) + square(b) * of_u
        a = where(after > 0, sqrt(of_p / after), 1.0)  # p may have been set to 0 meanwhile
        b = a * b
    return a, b, u
