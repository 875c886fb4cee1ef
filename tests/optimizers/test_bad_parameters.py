"""Parameters that an optimizer cannot update: one line when it is made, which names them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from lit_optim.errors import UsageError
from tests.optimizers.running import NAMES, class_of

#: Whose steps need values of all parameters on the host, or in one vector.
MEETING = {"lbfgs", "prodigy", "soap", "sparse_adam"}
NEED_SHAPES = {"muon", "muon_torch", "normuon", "scion", "shampoo", "soap"}


def matrix(*shape, device="cpu"):
    return nn.Parameter(torch.ones(*shape or (2, 2), device=device))


def group_of(*params):
    names = [f"net.{k}" for k in range(len(params))]
    return {"params": [*zip(names, params, strict=True)], "role": "hidden"}


def step(optimizer):
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def closure():
        for p in params:
            p.grad = torch.ones_like(p) if p.requires_grad else None
        return torch.tensor(1.0)

    closure()
    optimizer.step(closure)
    return params


def refused(name, *params, later=()):
    """The line with which these are refused, when the optimizer is made or when they are added."""
    with pytest.raises(ValueError, match="parameter") as error:
        class_of(name)([group_of(*params)])
    if name != "lbfgs":  # it has one group only
        optimizer = class_of(name)([group_of(params[0])])
        with pytest.raises(ValueError, match="parameter"):
            optimizer.add_param_group(group_of(*params[1:]))
        assert len(optimizer.param_groups) == 1
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_another_device_is_refused_where_a_step_would_fail(name):
    if name in MEETING:
        assert "parameter net.1 is on" in refused(name, matrix(), matrix(device="meta"))
        return
    here, there = matrix(), matrix(device="meta")
    step(class_of(name)([group_of(here, there)]))
    assert not torch.equal(here, matrix()) or name in ("adopt", "soap", "adafactor_hf")


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_may_be_anywhere(name):
    """As a base model whose weights a library keeps elsewhere."""
    there = matrix(device="meta").requires_grad_(False)
    if name == "lbfgs":  # whose vector has a place for frozen parameters too
        assert "one vector" in refused(name, matrix(), there)
        return
    step(class_of(name)([group_of(matrix(), there)]))


@pytest.mark.parametrize("name", NAMES)
def test_a_sparse_parameter_is_refused(name):
    sparse = nn.Parameter(torch.eye(2).to_sparse())
    assert "but parameter net.1 is stored as torch.sparse_coo" in refused(name, matrix(), sparse)


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_in_two_groups_is_named(name):
    p = matrix()
    with pytest.raises(ValueError, match="more than one parameter group") as error:
        class_of(name)([group_of(p), group_of(p)])
    if name != "lbfgs":
        assert str(error.value).endswith("parameter net.0")


@pytest.mark.parametrize("name", sorted(NEED_SHAPES))
def test_a_parameter_without_shape_is_named(name):
    assert "parameter net.1 has none" in refused(name, matrix(), UninitializedParameter())


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_without_elements_does_no_harm(name, shape):
    if name == "muon_torch":
        assert "empty matrices: parameter net.1" in refused(name, matrix(), matrix(*shape))
        return
    full, empty = matrix(), matrix(*shape)
    optimizer = class_of(name)([group_of(full, empty)])
    for _ in range(3):
        step(optimizer)
    assert full.isfinite().all()
    assert not torch.equal(full, matrix())
    class_of(name)([group_of(full, empty)]).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_no_parameters_are_refused(name):
    for nothing in ([], iter(()), nn.ReLU(), nn.ReLU().parameters()):
        with pytest.raises(ValueError, match=r"empty parameter list|no trainable parameters"):
            class_of(name)(nothing)


def test_only_a_trained_parameter_needs_a_device():
    with pytest.raises(
        UsageError, match=r"SOAP reads the values .* parameter net.0 is on the meta"
    ):
        class_of("soap")([group_of(matrix(device="meta"), matrix())])
