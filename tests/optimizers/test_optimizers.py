"""The contract of every optimizer that has a YAML; of torch's own classes in test_torchs_own."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import torch_executor
from lit_optim.optimizers.base.elementwise import Elementwise
from tests.optimizers.cases import CASES
from tests.optimizers.running import (
    NAMES,
    SHAPES,
    WALKS,
    class_of,
    default_dtype,
    defaults_of,
    difference,
    gradients,
    made_by,
    parameters,
    run,
    two_groups,
)

SETTINGS = [
    (name, settings) for name in WALKS if name in CASES for settings in CASES[name].settings
]
COMPARED = [(name, settings) for name, settings in SETTINGS if CASES[name].counterpart is not None]
#: for matrix methods: without an eigenvalue that comes twice, as 0 does of a long gradient
MATRICES = [(4, 5), (5, 4), (3, 2, 2, 1)]
#: largest difference after 100 updates of parameters of order 1
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
#: arguments that change no parameter here: they need names, are about ASGD's average, or about the
#: dtype of products of float32 (test_products)
APART = {"include_in_weight_decay", "exclude_from_weight_decay", "t0", "ns_dtype"}


@pytest.mark.parametrize("name", NAMES)
def test_has_a_reference(name):
    assert name in CASES, f"add {name} to tests/optimizers/cases.py with an oracle from its paper"


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_tried(name):
    """And where there is an oracle, its value tells."""
    for argument, default in defaults_of(class_of(name)).items():
        if argument in APART:
            continue
        tried = [s for s in CASES[name].settings if s.get(argument, default) != default]
        assert tried, argument
        if name in WALKS and default is not None:
            tells = [last(name, s) != last(name, s | {argument: default}) for s in tried]
            assert any(tells), argument


def last(name, settings):
    """What the oracle ends with, for each shape."""
    ends = []
    for shape in shapes_of(name):
        start, *steps = sequence(name, shape)
        *_, p = CASES[name].oracle(start, steps, **settings)
        ends.append(p if isinstance(p, float) else p.tolist())
    return ends


def by_coordinate(name):
    """Whether its oracle is about one number."""
    return issubclass(class_of(name), Elementwise) and "whole" not in class_of(name).requirements


def shapes_of(name):
    if "roles" in class_of(name).requirements:
        return MATRICES
    return [()] if by_coordinate(name) else SHAPES


def sequence(name, shape):
    """A parameter and gradients for an oracle: numbers, or arrays where it needs whole tensors."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(101, *shape, dtype=torch.float64, generator=generator)
    return drawn.tolist() if by_coordinate(name) else list(drawn.numpy())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "settings"), COMPARED, ids=str)
def test_equals_the_reference(name, settings, dtype):
    reference = CASES[name].counterpart
    mine, theirs = parameters(dtype), parameters(dtype)
    with default_dtype(dtype):
        run(made_by(name)(two_groups(mine, name, settings), **settings), mine, 0, 100)
        run(reference(two_groups(theirs, name, settings), **settings), theirs, 0, 100)
    assert difference(mine, theirs) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_equals_the_paper(name, settings):
    for shape in shapes_of(name):
        start, *steps = sequence(name, shape)
        p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
        optimizer = made_by(name)([p], **settings)
        for g, expected in zip(steps, CASES[name].oracle(start, steps, **settings), strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64)
            optimizer.step()
            assert abs(p.detach().numpy() - expected).max() <= 1e-12


@pytest.mark.parametrize("met", [3, 12])  # before and after the second parameter wakes up
@pytest.mark.parametrize(("name", "settings"), COMPARED, ids=str)
def test_state_dicts_exchange_with_the_reference(name, settings, met):
    reference = CASES[name].counterpart
    mine, theirs = parameters(), parameters()
    with default_dtype(torch.float64):
        ours, others = made_by(name)(mine, **settings), reference(theirs, **settings)
        run(ours, mine, 0, met)
        run(others, theirs, 0, met)
        ours_next, others_next = made_by(name)(theirs), reference(mine)
        ours_next.load_state_dict(others.state_dict())
        others_next.load_state_dict(ours.state_dict())
        run(ours_next, theirs, met, 30)
        run(others_next, mine, met, 30)
    assert difference(mine, theirs) <= 1e-10


@pytest.mark.parametrize("name", [n for n in WALKS if n != "adafactor_hf" and CASES[n].counterpart])
def test_numbers_that_torch_keeps_as_tensors_become_numbers(name):
    """Its lr and betas may be tensors, and so is the initial_lr that its schedulers note."""
    mine, theirs = parameters(), parameters()
    with default_dtype(torch.float64):
        hyper = {"lr": torch.tensor(0.02)}
        if "betas" in defaults_of(class_of(name)):
            hyper["betas"] = (torch.tensor(0.8), torch.tensor(0.99))
        others = CASES[name].counterpart(theirs, **hyper)
        torch.optim.lr_scheduler.ConstantLR(others, factor=1.0)
        run(others, theirs, 0, 7)
        for p, q in zip(mine, theirs, strict=True):
            p.data.copy_(q)
        ours = made_by(name)(mine)
        ours.load_state_dict(copy.deepcopy(others.state_dict()))
        (group,) = ours.param_groups
        numbers = [group["lr"], group["initial_lr"], *group.get("betas", ())]
        assert {type(number) for number in numbers} == {float}
        run(ours, mine, 7, 20)
        run(others, theirs, 7, 20)
        assert difference(mine, theirs) <= 1e-10
        others.load_state_dict(copy.deepcopy(ours.state_dict()))
        run(ours, mine, 20, 30)
        run(others, theirs, 20, 30)
    assert difference(mine, theirs) <= 1e-10


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_state_dict_round_trip_continues_to_the_bit(name, settings):
    straight, resumed = parameters(torch.float32), parameters(torch.float32)
    run(made_by(name)(straight, **settings), straight, 0, 30)
    first = made_by(name)(resumed, **settings)
    run(first, resumed, 0, 12)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = made_by(name)(resumed)  # defaults: the hyperparameters come with the state
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.param_groups[0].keys() == first.param_groups[0].keys()
    run(second, resumed, 12, 30)
    assert difference(straight, resumed) == 0


@pytest.mark.parametrize("name", WALKS)
def test_low_precision_parameters_keep_float32_state(name):
    params = parameters(torch.bfloat16)
    optimizer = made_by(name)(params, **CASES[name].settings[1])
    run(optimizer, params, 5, 8)
    loaded = made_by(name)(params, **CASES[name].settings[1])
    loaded.load_state_dict(optimizer.state_dict())
    for p in params:
        assert p.dtype == torch.bfloat16
        tensors = {key for key, value in optimizer.state[p].items() if torch.is_tensor(value)}
        assert tensors
        for key in tensors:
            assert optimizer.state[p][key].dtype == torch.float32
            assert torch.equal(loaded.state[p][key], optimizer.state[p][key])


@pytest.mark.parametrize("name", WALKS)
def test_gradients_are_not_written(name):
    params = parameters()
    gradients(params, 9)
    before = [p.grad.clone() for p in params]
    made_by(name)(params, **CASES[name].settings[1]).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))


@pytest.mark.parametrize("name", WALKS)
def test_blocks_and_layout_change_nothing(name, monkeypatch):
    monkeypatch.setattr(class_of(name), "fused_torch_step", lambda *args: False, raising=False)

    def trained(block, channels_last):
        monkeypatch.setattr(torch_executor, "PART_SIZE", block)
        params = parameters()
        if channels_last:
            params[3].data = params[3].data.to(memory_format=torch.channels_last)
        run(made_by(name)(params, **CASES[name].settings[1], executor="torch"), params, 0, 10)
        return params

    whole = trained(10**6, False)
    assert difference(whole, trained(3, False)) == 0
    order_of_sums = 0 if by_coordinate(name) else 1e-14
    assert difference(whole, trained(3, True)) <= order_of_sums


FUSED = ["adamw", "adam", "sgd", "momentum", "nag", "adagrad"]


@pytest.mark.parametrize(
    ("name", "settings"), [(name, s) for name in FUSED for s in CASES[name].settings], ids=str
)
def test_torchs_own_fused_step_is_the_same(name, settings, monkeypatch):
    own, taken = class_of(name).fused_torch_step, []

    def trained(step, channels_last=False):
        taken.clear()
        monkeypatch.setattr(class_of(name), "fused_torch_step", step)
        params = parameters()
        if channels_last:  # torch's kernels would pair it with other elements of its gradient
            params[3].data = params[3].data.to(memory_format=torch.channels_last)
        run(made_by(name)(params, **settings, executor="torch"), params, 0, 10)
        return params

    expected = trained(lambda *args: False)
    assert (
        difference(trained(lambda *args: taken.append(own(*args)) or taken[-1]), expected) < 1e-14
    )
    assert any(taken)
    assert difference(trained(lambda *args: taken.append(1), channels_last=True), expected) < 1e-14
    assert len(taken) == 5  # only the second parameter, which wakes up late, is by itself


@pytest.mark.parametrize("name", [n for n in WALKS if n != "adafactor_hf" and CASES[n].counterpart])
def test_maximize_equals_torchs(name):
    settings = CASES[name].settings[1]
    mine, theirs = parameters(), parameters()
    ours = made_by(name)(mine, **settings, maximize=True)
    torchs = CASES[name].counterpart(theirs, **settings, maximize=True)
    with default_dtype(torch.float64):
        run(ours, mine, 5, 15)
        run(torchs, theirs, 5, 15)
        assert difference(mine, theirs) <= 1e-10
        again = made_by(name)(theirs)  # the option comes with the state
        again.load_state_dict(torchs.state_dict())
        run(again, theirs, 15, 20)
        run(ours, mine, 15, 20)
    assert difference(mine, theirs) <= 1e-10


def test_a_state_that_asks_for_something_else_is_refused():
    params = parameters()
    nesterov = torch.optim.SGD(params, momentum=0.9, nesterov=True)
    cases = [
        ("sgd", torch.optim.Adagrad(params, eps=0.1), "SGD has no eps"),
        ("adamax", torch.optim.AdamW(params), "Adamax has no decoupled_weight_decay"),
        ("momentum", nesterov, "Momentum has nesterov=False, but the state has True"),
    ]
    for name, theirs, message in cases:
        with pytest.raises(UsageError, match=message):
            made_by(name)(params).load_state_dict(theirs.state_dict())
