"""Classes that a configuration names and that cannot be what they are named for."""

from __future__ import annotations

import pytest
import torch

import lit_optim.param_groups
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.config.composing import compose_config
from lit_optim.config.targets import make_factory
from lit_optim.runs.build import build_run


class Deaf(torch.optim.SGD):
    """Without a closure, which Lightning gives."""

    def step(self):
        super().step()


class Nobody:
    pass


class Unfinished(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})


class Whole(Unfinished):
    def step(self, closure=None):
        loss = closure()
        for p in self.param_groups[0]["params"]:
            p.data.sub_(self.param_groups[0]["lr"] * p.grad)
        return loss


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("nowhere_at_all.Opt", "there is no module nowhere_at_all; is it installed, or here?"),
        ("tests.test_build.Nothing", "tests.test_build has no Nothing"),
        ("tests.test_build.Nobody", "is not an Optimizer"),
        ("tests.test_build.Deaf", "its step takes no closure, which Lightning gives it"),
        ("tests.test_build.Unfinished", "is abstract: it has no step of its own"),
        ("torch.optim.Optimizer", "optimizer.defaults must be given: a mapping"),
        ("tests.test_build.Whole", None),
    ],
)
def test_an_optimizer_of_yours(tmp_path, refusal, target, line):
    package = target.split(".")[0]
    allowed = [f"allow=[{package}]"] if package != "torch" else []
    argv = ["optimizer=custom", f"optimizer._target_={target}", *allowed, "logger=none"]
    argv += ["data=digits", "model=mlp"]

    if line is None:
        build_run(compose_config(prepare_command_line(argv).argv), tmp_path)
    else:
        told = refusal(argv)
        assert line in told
        assert "\n" not in told


def test_roles_are_typed_by_patterns_of_names():
    argv = ["optimizer=muon", "optimizer.roles={first.*: other, out.weight: hidden}"]
    cfg = compose_config(prepare_command_line(argv).argv)
    net = torch.nn.ModuleDict({name: torch.nn.Linear(3, 3) for name in ("first", "second", "out")})
    optimizer = make_factory(cfg.optimizer)(lit_optim.param_groups(net))
    roles = {n: g["role"] for g in optimizer.param_groups for n in g["param_names"]}
    assert {name: roles[f"{name}.weight"] for name in net} == {
        "first": "other",
        "second": "hidden",
        "out": "hidden",
    }
