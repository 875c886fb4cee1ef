"""L-BFGS, torch's own."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from lit_optim.errors import UsageError
from lit_optim.optimizers.base import TorchOptimizer
from lit_optim.optimizers.base.torch_own import Childless
from lit_optim.optimizers.base.types import Count, Group, NonNegative


class _TorchLBFGS(Childless, torch.optim.LBFGS):
    pass


class LBFGS(TorchOptimizer, _TorchLBFGS):
    """Newton's method with a curvature estimated from the last steps; for full batches.

    Liu & Nocedal 1989, On the limited memory BFGS method for large scale optimization, Mathematical
    Programming 45; line search: Nocedal & Wright 2006, Numerical Optimization, Alg. 3.5 and 3.6.

        s, y = the last history_size steps, and the changes of g along them
        H = the inverse Hessian that maps each y to its s, built on (s'y) / (y'y) of the last pair
        p = p - lr H g, up to max_iter times in one step; at first p = p - lr g / max(1, |g|_1)

    A step calls the closure, and so the model, up to max_eval times, always on the same batch. All
    parameters are one vector, so there is one param group; several are joined into one, `all`.

    State, all with the first parameter: `old_dirs` (y), `old_stps` (s), `ro`, `al`, `d`, `t`,
    `H_diag`, `prev_flat_grad`, `prev_loss`, `n_iter`, `func_evals`. It takes 2 history_size times
    the memory of the parameters.

    Args:
        params: parameters, or param groups that set no hyperparameters.
        lr: the share of the full step, or the first one that a line search tries.
        max_iter: iterations per step.
        max_eval: evaluations of the closure per step; null: 1.25 max_iter.
        tolerance_grad: a step ends early if no coordinate of the gradient is larger.
        tolerance_change: or if the loss or all coordinates change by less.
        history_size: how many steps are remembered.
        line_search_fn: "strong_wolfe" searches for the step length, with more evaluations; null
            uses lr.

    Raises:
        ValueError: a group sets a hyperparameter, or groups share a parameter.
    """

    lr: NonNegative = 1.0
    max_iter: Count = 20
    max_eval: Count | None = None
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9
    history_size: Count = 100
    line_search_fn: Literal["strong_wolfe"] | None = None

    requirements = ("closure", "one_lr", "dense", "whole")
    lr_range = (1e-2, 1.0)
    has_one_group = True
    joins_parameters = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimize the loss that the closure returns, over max_iter iterations.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise UsageError("LBFGS must be given a closure: step(closure) calls it several times")
        return self.run_torch_step(closure)

    def __setstate__(self, state: Group) -> None:
        super().__setstate__(state)
        self._params = self.param_groups[0]["params"]  # which torch's class loses in a copy
        self._numel_cache = None
