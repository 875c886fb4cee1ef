"""The contract of every optimizer that has a YAML."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from lit_optim.config.places import groups
from lit_optim.errors import UsageError
from lit_optim.kernels import torch_executor
from tests.optimizers.cases import CASES

SHAPES = [(), (7,), (4, 5), (3, 2, 3, 3)]
NAMES = sorted(groups()["optimizer"])
SETTINGS = [(name, settings) for name in NAMES if name in CASES for settings in CASES[name][2]]
#: largest difference after 100 updates of parameters of order 1
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


def class_of(name):
    return get_class(OmegaConf.load(groups()["optimizer"][name])._target_)


def parameters(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in SHAPES]
    return [torch.nn.Parameter(value.to(dtype)) for value in values]


def gradients(params, step):
    """The same for every optimizer; the second parameter wakes up late."""
    generator = torch.Generator().manual_seed(1000 + step)
    for index, p in enumerate(params):
        g = torch.randn(p.shape, dtype=torch.float64, generator=generator)
        p.grad = None if index == 1 and step < 5 else g.to(p.dtype)


def two_groups(params, lr):
    return [{"params": params[:2]}, {"params": params[2:], "lr": lr, "weight_decay": 0.05}]


def run(optimizer, params, first, last):
    for step in range(first, last):
        gradients(params, step)
        optimizer.step()


def difference(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_has_a_reference(name):
    assert name in CASES, f"add {name} to tests/optimizers/cases.py with an oracle from its paper"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_equals_torch(name, settings, dtype):
    reference = CASES[name][0]
    if reference is None:
        pytest.skip("torch has none")
    mine, theirs = parameters(dtype), parameters(dtype)
    lr = settings.get("lr", 1e-3) / 2
    run(class_of(name)(two_groups(mine, lr), **settings), mine, 0, 100)
    run(reference(two_groups(theirs, lr), **settings, foreach=False), theirs, 0, 100)
    assert difference(mine, theirs) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_equals_the_paper(name, settings):
    p = torch.nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    optimizer = class_of(name)([p], **settings)
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randn(100, dtype=torch.float64, generator=generator).tolist()
    for g, expected in zip(sequence, CASES[name][1](1.3, sequence, **settings), strict=True):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        assert p.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_state_dicts_exchange_with_torch(name, settings):
    reference = CASES[name][0]
    if reference is None:
        pytest.skip("torch has none")
    mine, theirs = parameters(), parameters()
    ours, torchs = class_of(name)(mine, **settings), reference(theirs, **settings, foreach=False)
    run(ours, mine, 5, 15)
    run(torchs, theirs, 5, 15)
    ours_next, torchs_next = class_of(name)(theirs), reference(mine, foreach=False)
    ours_next.load_state_dict(torchs.state_dict())
    torchs_next.load_state_dict(ours.state_dict())
    run(ours_next, theirs, 15, 30)
    run(torchs_next, mine, 15, 30)
    assert difference(mine, theirs) <= 1e-10


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_state_dict_round_trip_continues_to_the_bit(name, settings):
    straight, resumed = parameters(torch.float32), parameters(torch.float32)
    run(class_of(name)(straight, **settings), straight, 0, 30)
    first = class_of(name)(resumed, **settings)
    run(first, resumed, 0, 12)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = class_of(name)(resumed)  # defaults: the hyperparameters come with the state
    second.load_state_dict(torch.load(file))  # under torch's default weights_only
    run(second, resumed, 12, 30)
    assert difference(straight, resumed) == 0


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_parameters_keep_float32_state(name):
    params = parameters(torch.bfloat16)
    optimizer = class_of(name)(params, **CASES[name][2][1])
    run(optimizer, params, 5, 8)
    loaded = class_of(name)(params, **CASES[name][2][1])
    loaded.load_state_dict(optimizer.state_dict())
    for p in params:
        assert p.dtype == torch.bfloat16
        tensors = {key for key, value in optimizer.state[p].items() if torch.is_tensor(value)}
        assert tensors
        for key in tensors:
            assert optimizer.state[p][key].dtype == torch.float32
            assert torch.equal(loaded.state[p][key], optimizer.state[p][key])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_not_written(name):
    params = parameters()
    gradients(params, 9)
    before = [p.grad.clone() for p in params]
    class_of(name)(params, weight_decay=0.1).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_blocks_and_layout_change_nothing(name, monkeypatch):
    def trained(block, channels_last):
        monkeypatch.setattr(torch_executor, "BLOCK", block)
        params = parameters()
        if channels_last:
            params[3].data = params[3].data.to(memory_format=torch.channels_last)
        run(class_of(name)(params, **CASES[name][2][1]), params, 0, 10)
        return params

    whole = trained(10**6, False)
    assert difference(whole, trained(3, False)) == 0
    assert difference(whole, trained(3, True)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_closure_deepcopy_and_pickle(name):
    params = parameters()
    optimizer = class_of(name)(params)

    def closure():
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    assert optimizer.step(closure).item() < first
    for duplicate in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        twin = duplicate(optimizer)
        copies = twin.param_groups[0]["params"]
        theirs = [p.detach().clone() for p in params]
        run(optimizer, params, 7, 9)
        run(twin, copies, 7, 9)
        assert difference(params, copies) == 0
        for p, value in zip(params, theirs, strict=True):
            assert not torch.equal(p, value)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_nonsense_in_one_line(name):
    params = parameters()
    make = class_of(name)
    for bad in (-1.0, 0.0, float("nan"), float("inf"), "abc", None, True):
        with pytest.raises(UsageError, match=r"^lr must be a number > 0, got") as error:
            make(params, lr=bad)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError):
        make(params, lrr=1.0)
    with pytest.raises(UsageError, match="has no 'lrr'"):
        make([{"params": params, "lrr": 1.0}])
    with pytest.raises(UsageError, match="weight_decay must be a number >= 0"):
        make([{"params": params, "weight_decay": -1.0}])


def test_sparse_and_complex_are_refused():
    adamw = class_of("adamw")
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        adamw([p]).step()
    z = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    z.grad = torch.ones(3, dtype=torch.complex64)
    with pytest.raises(RuntimeError, match="complex"):
        adamw([z]).step()


def test_a_state_that_asks_for_something_else_is_refused():
    params = parameters()
    cases = [
        ("adamw", torch.optim.AdamW(params, maximize=True), "AdamW has no maximize"),
        ("sgd", torch.optim.SGD(params, maximize=True), "SGD has no maximize"),
        ("adam", torch.optim.AdamW(params), "Adam has no decoupled_weight_decay"),
    ]
    for name, theirs, message in cases:
        with pytest.raises(UsageError, match=message):
            class_of(name)(params).load_state_dict(theirs.state_dict())


def test_nesterov_needs_momentum():
    with pytest.raises(UsageError, match="nesterov must go with momentum"):
        class_of("sgd")(parameters(), nesterov=True)


def test_lazy_names():
    import lit_optim

    assert lit_optim.AdamW is class_of("adamw")
    assert lit_optim.SGD is class_of("sgd")
    with pytest.raises(AttributeError):
        _ = lit_optim.NoSuchOptimizer
