"""State dicts of states in 16 and 8 bits: saved as they are, loaded as they are asked for."""

from __future__ import annotations

import io

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import BLOCK
from tests.kernels.number_formats import gaps, levels, tops
from tests.optimizers.running import NAMES, class_of

STORED = ("float32", "bfloat16", "int8")
DTYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.int8, torch.uint8),
}
STATES = ("exp_avg", "exp_avg_sq")
SHAPE = (6, 5, 3, 7)  # two blocks and a ragged one


def start(memory_format=torch.contiguous_format, dtype=torch.float32):
    """Over several orders of magnitude, so that each block has a scale of its own."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(SHAPE, generator=generator) * torch.logspace(-3, 1, 6).view(6, 1, 1, 1)
    return torch.nn.Parameter(value.to(dtype).to(memory_format=memory_format))


def trained(p, steps=3, **options):
    optimizer = class_of("adamw")([p], **options)
    for step in range(steps):
        p.grad = torch.sin(p.detach() * (step + 1))
        optimizer.step()
    return optimizer


def saved(optimizer):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(x):
    """The elements in the order in which they lie."""
    return x.as_strided((x.numel(),), (1,))


def numbers(state, name):
    """A stored state as numbers of float64, by hand, of its shape and layout."""
    x = flat(state[name])
    value = x.double()
    if x.dtype in DTYPES["int8"]:
        scale = state[f"{name}_scale"].double().repeat_interleave(BLOCK)[: len(x)]
        value = levels(x.dtype)[x.int().abs()].copysign(value) * scale
    shaped = torch.empty_like(state[name], dtype=torch.float64)
    flat(shaped).copy_(value)
    return shaped


def assert_converted(given, state, name, stored):
    """To the nearest number that can be stored there."""
    found = numbers(state, name)
    given = torch.empty_like(found).copy_(given)
    most = {"float32": 1e-6, "bfloat16": 2**-8, "int8": 0.0}[stored] * given.abs()
    if stored == "int8":
        value, dtype, most = flat(given), state[name].dtype, flat(most)
        share = value.abs() / tops(value)
        half = gaps(share, dtype) * tops(value) / 2
        most += torch.where(share < levels(dtype)[1], 2, 1) * half * (1 + 1e-4)
        found = flat(found)
        given = value
    assert ((found - given).abs() <= most).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("after", STORED)
@pytest.mark.parametrize("before", STORED)
def test_states_convert_to_what_is_asked_for(before, after, dtype):
    p = start(dtype=dtype)
    optimizer = trained(p, state_dtype=before)
    found = class_of("adamw")([p], state_dtype=after, lr=0.5)
    found.load_state_dict(saved(optimizer))
    assert found.param_groups[0]["state_dtype"] == after
    assert found.param_groups[0]["lr"] == 1e-3  # what is no way of storing comes with the state
    state = found.state[p]
    assert state["step"] == 3
    for name, stored in zip(STATES, DTYPES[after], strict=True):
        assert state[name].dtype == stored
        assert (f"{name}_scale" in state) == (after == "int8")
        assert_converted(numbers(optimizer.state[p], name), state, name, after)
    p.grad = torch.ones_like(p)
    found.step()
    assert torch.isfinite(p).all()


@pytest.mark.parametrize("first", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("after", STORED)
@pytest.mark.parametrize("before", STORED)
def test_states_may_be_loaded_into_another_layout(before, after, first):
    """The blocks of 256 are of what lies side by side."""
    [second] = {torch.contiguous_format, torch.channels_last} - {first}
    p, q = start(first), start(second)
    optimizer = trained(p, state_dtype=before)
    found = class_of("adamw")([q], state_dtype=after)
    found.load_state_dict(saved(optimizer))
    for name in STATES:
        assert found.state[q][name].stride() == q.stride()
        assert_converted(numbers(optimizer.state[p], name), found.state[q], name, after)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_states_keep_their_precision_beside_narrow_parameters(dtype, stored):
    """torch casts what is loaded to the dtype of the parameter."""
    p = start(dtype=dtype)
    optimizer = trained(p, state_dtype=stored)
    found = class_of("adamw")([p], state_dtype=stored)
    found.load_state_dict(saved(optimizer))
    kept = [name for name, value in optimizer.state[p].items() if torch.is_tensor(value)]
    assert kept
    for name in kept:
        assert found.state[p][name].dtype == optimizer.state[p][name].dtype
        assert torch.equal(found.state[p][name], optimizer.state[p][name])
    wide = optimizer.state[p]["exp_avg"]
    if stored == "float32":  # else there would be nothing to lose
        assert (wide != wide.to(dtype)).any()


def test_halves_are_saved_and_left_out():
    p = start(dtype=torch.bfloat16)
    optimizer = trained(p, master="split")
    state = saved(optimizer)
    with_halves = class_of("adamw")([p], master="split")
    with_halves.load_state_dict(state)
    assert torch.equal(with_halves.state[p]["master"], optimizer.state[p]["master"])
    without = class_of("adamw")([p])
    without.load_state_dict(state)
    assert without.param_groups[0]["master"] == "none"
    assert "master" not in without.state[p]
    anew = class_of("adamw")([p], master="split")
    anew.load_state_dict(without.state_dict())
    assert anew.param_groups[0]["master"] == "split"
    assert not anew.state[p]["master"].any()


@pytest.mark.parametrize("stored", STORED)
def test_torchs_state_dicts_are_taken(stored):
    p, q = start(), start()
    theirs = torch.optim.AdamW([p])
    p.grad = torch.sin(p.detach())
    theirs.step()
    ours = class_of("adamw")([q], state_dtype=stored)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["state_dtype"] == stored
    assert ours.state[q]["step"] == 1
    for name, dtype in zip(STATES, DTYPES[stored], strict=True):
        assert ours.state[q][name].dtype == dtype


@pytest.mark.parametrize("after", STORED)
@pytest.mark.parametrize("before", STORED)
def test_empty_single_and_sleeping_parameters_load(before, after):
    first = [torch.nn.Parameter(torch.ones(shape)) for shape in [(0, 3), (), (1,), (2, 2)]]
    optimizer = class_of("adamw")(first, state_dtype=before)
    for p in first[:3]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    found = class_of("adamw")(second, state_dtype=after)
    found.load_state_dict(saved(optimizer))
    assert second[3] not in found.state
    for p, q in zip(first, second, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    found.step()
    for p, q in zip(first, second, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=0)
        assert found.state[q]["step"] == optimizer.state[p]["step"]


@pytest.mark.parametrize("other", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
@pytest.mark.parametrize("name", NAMES)
def test_the_state_of_another_optimizer_is_loaded_or_refused_in_one_line(name, other):
    """Whatever happens, no step fails for want of what the state has not."""
    kind = class_of(name)
    p = start_matrix()
    theirs, ours = other([p], lr=0.1), kind([start_matrix()])
    p.grad = torch.ones_like(p)
    theirs.step()
    refused = None
    try:
        ours.load_state_dict(theirs.state_dict())
    except UsageError as error:
        refused = str(error)
    if refused:
        assert kind.__name__ in refused
        assert "\n" not in refused
        return
    own = ours.param_groups[0]["params"][0]

    def loss():
        ours.zero_grad()
        value = own.square().sum()
        value.backward()
        return value

    before = own.detach().clone()
    for _ in "12":  # the first step of ADOPT and SOAP moves nothing
        loss()
        ours.step(loss if "closure" in kind.requirements else None)
    assert own.isfinite().all()
    assert not own.equal(before)


def start_matrix():
    return torch.nn.Parameter(torch.ones(3, 4) + torch.eye(3, 4))


@pytest.mark.parametrize(
    "change",
    [{"lr": "a"}, {"lr": float("nan")}, {"lr": -1.0}, {"betas": (0.9, 1.5)}, {"eps": None}],
)
def test_saved_hyperparameters_are_checked_like_given_ones(change):
    p = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = class_of("adamw")([p])
    saved = optimizer.state_dict()
    saved["param_groups"][0] |= change
    with pytest.raises(UsageError, match=f"AdamW: {next(iter(change))} must be") as error:
        optimizer.load_state_dict(saved)
    assert "\n" not in str(error.value)
