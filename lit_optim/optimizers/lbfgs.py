"""L-BFGS, torch's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal

import torch

from lit_optim.errors import UsageError
from lit_optim.hyperparameters import check, plain_values
from lit_optim.optimizers.base.groups import BOOKKEEPING, accepted, listed, with_names
from lit_optim.requirements import Need

#: Without the wrapper that calls the hooks of a step: ours has it already.
_step = inspect.unwrap(torch.optim.LBFGS.step)


class LBFGS(torch.optim.LBFGS):
    """Newton's method with a curvature that is learnt from the last steps; for full batches.

    Liu & Nocedal 1989, On the limited memory BFGS method for large scale optimization, Mathematical
    Programming 45; line search: Nocedal & Wright 2006, Numerical Optimization, Alg. 3.5 and 3.6.

        s, y = the last steps and the changes of g along them, history_size of them
        H = what maps each y to its s, else the identity times (s'y) / (y'y) of the last
        p = p - lr H g, up to max_iter times in one step; at first p = p - lr g / max(1, |g|_1)

    A step calls the closure, hence the model, up to max_eval times, always on one batch. All
    parameters are one vector, so there is one param group; several are joined into one, `all`.

    State, all with the first parameter: `old_dirs` (y), `old_stps` (s), `ro`, `al`, `d`, `t`,
    `H_diag`, `prev_flat_grad`, `prev_loss`, `n_iter`, `func_evals`. It takes 2 history_size times
    the memory of the parameters.

    Args:
        params: parameters, or param groups that set nothing of their own.
        lr: the share of the full step, or with a line search the first that is tried.
        max_iter: iterations per step.
        max_eval: evaluations of the closure per step; null: 1.25 max_iter.
        tolerance_grad: a step ends early if no coordinate of the gradient is larger.
        tolerance_change: or if the loss or all coordinates change by less.
        history_size: steps that are remembered.
        line_search_fn: "strong_wolfe" finds how far to go, at more evaluations; null goes lr far.

    Raises:
        ValueError: groups that differ, or share a parameter.
    """

    needs: ClassVar[tuple[Need, ...]] = ("closure", "one_lr", "dense", "whole")
    lr_range: ClassVar[tuple[float, float]] = (1e-2, 1.0)

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, ">= 0"] = 1.0,
        max_iter: Annotated[int, "> 0"] = 20,
        max_eval: Annotated[int, "> 0"] | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: Annotated[int, "> 0"] = 100,
        line_search_fn: Literal["strong_wolfe"] | None = None,
    ) -> None:
        hyper: dict[str, Any] = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        check(LBFGS.__init__, hyper)
        hyper = plain_values(hyper)
        given = listed(params)
        if given:
            groups = given if isinstance(given[0], dict) else [{"params": given}]
            given = [_joined([with_names(group) for group in groups])]
        super().__init__(given, **hyper)

    def add_param_group(self, param_group: dict[str, Any]) -> None:  # noqa: D102
        if self.param_groups:
            raise UsageError("LBFGS takes one param group, of all parameters")
        super().add_param_group(accepted(self, param_group))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimise what the closure returns, over max_iter iterations.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise UsageError("LBFGS must be given a closure: step(closure) calls it several times")
        with torch.no_grad():
            return _step(self, closure)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._params = self.param_groups[0]["params"]  # torch's does not survive a copy
        self._numel_cache = None


def _joined(groups: list[dict[str, Any]]) -> dict[str, Any]:
    params: list[torch.Tensor] = []
    names: list[str] = []
    for index, group in enumerate(groups):
        for key, value in group.items():
            if key in BOOKKEEPING or (key == "weight_decay" and not value):
                continue
            name = group.get("name", index)
            raise UsageError(f"LBFGS has one group of all parameters, but group {name} sets {key}")
        params += group["params"]
        names += group.get("param_names", ())
    if len(groups) > 1 and len(set(map(id, params))) < len(params):
        raise ValueError("some parameters appear in more than one parameter group")
    named = {"param_names": names} if len(names) == len(params) else {}
    return {"name": "all", "params": params, **named}
