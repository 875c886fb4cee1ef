"""AdamW as TensorFlow has it."""

from lit_optim.optimizers.adamw import AdamW
from lit_optim.optimizers.base.decay_by_name import DecayByName
from lit_optim.optimizers.base.types import Group, NonNegative, Scalars


class AdamWeightDecay(DecayByName, AdamW):
    """AdamW of TensorFlow: patterns of parameter names choose what is decayed.

    Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization, arXiv:1711.05101; in the form
    of transformers' AdamWeightDecay for TensorFlow.

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g²
        p = p - lr weight_decay p
        p = p - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps)

    Differs from AdamW: eps is outside of the bias correction, so it weighs 1 / sqrt(1 - b2^t)
    times more. Where patterns divide a group, the part that is not decayed becomes
    `<name>.no_decay`; the parts of a group without a name, or named all, are `decay` and
    `no_decay`. In a group that sets weight_decay 0 only included parameters are decayed, as
    `<name>.decay`.

    State: `exp_avg` (m) and `exp_avg_sq` (v), each of the parameter's shape; with amsgrad also
    `max_exp_avg_sq`, the largest v so far, which then stands in the denominator.

    Args:
        params: (name, parameter) pairs, or param groups, which may have names as `param_names`;
            without patterns, names are not needed.
        lr: the step size of each coordinate.
        betas: decay rates of the averages of g and g².
        eps: added to the denominator for numerical stability.
        weight_decay: decoupled: multiplied by lr, not seen by the averages; TensorFlow calls it
            weight_decay_rate.
        amsgrad: use the largest v so far, so that no step grows because v shrinks.
        include_in_weight_decay: regular expressions; a parameter is decayed if its name has a match
            of one, whatever else is set.
        exclude_from_weight_decay: the same for parameters that are not decayed. Parameters that
            match neither are decayed.

    Raises:
        ValueError: patterns without names, or one that is not a regular expression.
    """

    eps: NonNegative = 1e-7
    weight_decay: NonNegative = 0.0

    # in torch's step eps is inside of the bias correction
    torch_step = None  # type: ignore[assignment]

    def scalars(self, group: Group, t: int) -> Scalars:
        h = super().scalars(group, t)
        return h | {"eps": group["eps"] / h["sqrt_debias2"]}  # AdamW's rule multiplies it again
