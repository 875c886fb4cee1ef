"""States in 16 and 8 bits, and parameters in two halves: what a step makes of them."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels.precision import join_master
from lit_optim.optimizers.base.elementwise import Elementwise
from tests.optimizers.running import NAMES, class_of

RULES = [name for name in NAMES if issubclass(class_of(name), Elementwise)]
SHAPES = [(), (7,), (3, 2, 3, 3), (0,), (5000,)]  # ragged blocks, ragged chunks
FEWER = ("bfloat16", "int8")
EXECUTORS = ("native", "torch")
#: three states, of which two share a word of chances
MORE = [("adamw", {"amsgrad": True}), ("rmsprop", {"centered": True, "momentum": 0.5})]
SETTINGS = [(name, {}) for name in RULES] + MORE
#: one state is made of another, so that a rounding of that which falls the other way is seen here
ENTANGLED = {"adopt", "laprop"}


def parameters(dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(s, dtype=torch.float64, generator=generator) + 0.5 for s in shapes]
    # what bfloat16 holds too, so that all dtypes start alike
    return [torch.nn.Parameter(value.bfloat16().to(dtype)) for value in values]


def gradients(params, step):
    generator = torch.Generator().manual_seed(step)
    for p in params:
        g = torch.randn(p.shape, dtype=torch.float64, generator=generator)
        p.grad = g.bfloat16().to(p.dtype)


def run(optimizer, params, first, last):
    for step in range(first, last):
        gradients(params, step)
        optimizer.step()


def stepped(name, dtype=torch.float32, steps=4, shapes=SHAPES, **options):
    params = parameters(dtype, shapes)
    optimizer = class_of(name)(params, **options)
    run(optimizer, params, 0, steps)
    return params, optimizer


def tensors(params, optimizer):
    """Parameters and states, by name."""
    for k, p in enumerate(params):
        yield f"p{k}", p.detach()
        for name, value in optimizer.state[p].items():
            if torch.is_tensor(value):
                yield f"{name}{k}", value


def assert_same(one, other):
    for (name, x), (same, y) in zip(tensors(*one), tensors(*other), strict=True):
        assert name == same
        assert x.dtype == y.dtype
        assert torch.equal(x, y), name


def in_ulps(x):
    """Codes as they are, and bfloat16 as integers that are 1 apart where the numbers are an ulp."""
    if x.dtype != torch.bfloat16:
        return x.int()
    bits = x.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


# executors


def assert_executors_agree(name, settings, dtype, **options):
    native = stepped(name, dtype, executor="native", **settings, **options)
    eager = stepped(name, dtype, executor="torch", **settings, **options)
    most = {torch.float64: 1e-7, torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    apart = total = 0
    for (key, x), (_, y) in zip(tensors(*native), tensors(*eager), strict=True):
        assert x.dtype == y.dtype
        if x.dtype in (torch.bfloat16, torch.int8, torch.uint8) and key[0] != "p":
            off = (in_ulps(x) - in_ulps(y)).abs()
            assert (off <= 1).all() or name in ENTANGLED, key
            apart += (off > 0).sum().item()
            total += off.numel()
        elif x.dtype == torch.int16:
            assert ((x.int() - y.int()).abs() <= 2).double().mean().nan_to_num(1.0) > 0.999
        else:
            assert x.isfinite().all()
            torch.testing.assert_close(x, y, rtol=most, atol=most)
    assert apart <= total * 1e-3


@pytest.mark.parametrize("state_dtype", FEWER)
@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_executors_agree(name, settings, state_dtype):
    assert_executors_agree(name, settings, torch.float32, state_dtype=state_dtype)


@pytest.mark.parametrize("state_dtype", FEWER)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "ademamix" else pytest.mark.slow) for n in RULES],
)
def test_executors_agree_on_other_parameters(name, state_dtype):
    assert_executors_agree(name, {}, torch.float64, state_dtype=state_dtype)
    for master in ("none", "split"):
        options = {"state_dtype": state_dtype, "master": master}
        assert_executors_agree(name, {}, torch.bfloat16, **options)


@pytest.mark.parametrize("state_dtype", FEWER)
def test_executors_agree_under_options_that_look_twice(state_dtype):
    """The first pass over a tensor reads the states that the second one writes."""
    options = {"cautious": True, "clip_update": 0.5, "trust_ratio": True}
    assert_executors_agree("adamw", options, torch.float32, state_dtype=state_dtype)
    assert_executors_agree("lion", options, torch.bfloat16, state_dtype=state_dtype, master="split")


@pytest.mark.parametrize("state_dtype", FEWER)
def test_threads_and_repetition_change_no_bit(state_dtype):
    def trained(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        options = {"state_dtype": state_dtype, "master": "split", "cautious": True}
        try:
            return stepped("adamw", torch.bfloat16, shapes=[(70_001,), (300, 301)], **options)
        finally:
            torch.set_num_threads(before)

    alone = trained(1)
    assert_same(alone, trained(1))
    assert_same(alone, trained(3))


# what it is good for


@pytest.mark.parametrize("state_dtype", FEWER)
def test_a_slow_average_moves_as_it_should(state_dtype):
    """Each change is far smaller than half of the last bit, so rounding to nearest would stall."""
    p = torch.nn.Parameter(torch.zeros(100_000))
    plain = class_of("adamw")([p], lr=1e-9, betas=(0.9999, 0.9999))
    p.grad = torch.ones_like(p)
    plain.step()
    names = ("exp_avg", "exp_avg_sq")
    for name in names:
        plain.state[p][name].fill_(0.25)[::256] = 1.0  # the largest of its block
    optimizer = class_of("adamw")([p], state_dtype=state_dtype)

    def means():
        plain.load_state_dict(optimizer.state_dict())
        return [plain.state[p][name].mean().item() for name in names]

    optimizer.load_state_dict(plain.state_dict())
    before = means()
    for _ in range(50):
        optimizer.step()
    for start, now in zip(before, means(), strict=True):
        assert now - start == pytest.approx((1 - start) * (1 - 0.9999**50), rel=0.05)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", ["adamw", "momentum", "sgd"])
def test_halves_together_are_a_float32_parameter(name, executor):
    low, with_halves = stepped(name, torch.bfloat16, 20, master="split", executor=executor, lr=1e-3)
    whole, _ = stepped(name, torch.float32, 20, executor=executor, lr=1e-3)
    for p, q in zip(low, whole, strict=True):
        master = join_master(p.detach(), with_halves.state[p]["master"])
        torch.testing.assert_close(master, q.detach(), rtol=1e-6, atol=1e-7)
        assert ((p - master).abs() <= (master.bfloat16() - master).abs()).all()
    stale, _ = stepped(name, torch.bfloat16, 20, executor=executor, lr=1e-3)
    assert (stale[-1] - whole[-1]).abs().mean() > 2 * (low[-1] - whole[-1]).abs().mean()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("now", [0.0, -0.0, 1.0, -2.5])
def test_a_parameter_that_was_set_is_what_it_was_set_to(now, executor):
    """By pruning, or by loading another model: the half beside it is of the value before."""
    [p], optimizer = stepped(
        "sgd", torch.bfloat16, shapes=[(300,)], master="split", executor=executor
    )
    assert (optimizer.state[p]["master"] < 0).any()
    p.data.fill_(now)
    p.grad.zero_()
    optimizer.step()
    assert (p == now).all()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_model_that_changes_its_dtype_is_trained_on_or_refused(executor):
    [p], optimizer = stepped("sgd", torch.bfloat16, shapes=[(9,)], master="split")
    before = p.detach().float()
    p.grad, p.data = None, before.clone()
    p.grad = torch.ones(9)
    optimizer.param_groups[0].update(lr=0.5, executor=executor)
    try:
        optimizer.step()
    except UsageError:
        assert torch.equal(p, before)
    else:
        torch.testing.assert_close(p.detach(), before - 0.5, rtol=2**-7, atol=0)


def test_adamw_in_8_bits_takes_2_bytes_for_a_parameter():
    p = torch.nn.Parameter(torch.ones(1000, 1000))
    bytes_ = {}
    for state_dtype, most in [("float32", 8.0), ("bfloat16", 4.0), ("int8", 2.1)]:
        optimizer = class_of("adamw")([p], state_dtype=state_dtype)
        p.grad = torch.ones_like(p)
        optimizer.step()
        kept = [x for x in optimizer.state[p].values() if torch.is_tensor(x)]
        bytes_[state_dtype] = sum(x.numel() * x.element_size() for x in kept) / 1e6
        assert bytes_[state_dtype] <= most
    assert bytes_["float32"] == 8.0


# going on


@pytest.mark.parametrize("state_dtype", FEWER)
@pytest.mark.parametrize("name", RULES)
def test_resume_to_the_bit(name, state_dtype):
    straight, resumed = parameters(), parameters()
    options = {"state_dtype": state_dtype, "executor": "native"}
    unbroken = class_of(name)(straight, **options)
    run(unbroken, straight, 0, 6)
    first = class_of(name)(resumed, **options)
    run(first, resumed, 0, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = class_of(name)(resumed, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    run(second, resumed, 3, 6)
    assert_same((straight, unbroken), (resumed, second))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("state_dtype", FEWER)
def test_copies_go_on_alike(state_dtype, duplicate):
    options = {"state_dtype": state_dtype, "master": "split"}
    params, optimizer = stepped("adamw", torch.bfloat16, **options)
    twin = duplicate(optimizer)
    copies = twin.param_groups[0]["params"]
    run(optimizer, params, 4, 7)
    run(twin, copies, 4, 7)
    assert_same((params, optimizer), (copies, twin))


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("state_dtype", FEWER)
def test_who_wakes_late_is_at_its_own_step(state_dtype, executor):
    options = {"state_dtype": state_dtype, "executor": executor, "lr": 0.01}
    shapes = [(300,), (300,)]
    early, late = parameters(shapes=shapes), parameters(shapes=shapes)
    first, second = class_of("adamw")(early, **options), class_of("adamw")(late, **options)
    run(first, early, 0, 3)
    for step in range(-2, 3):
        gradients(late, step if step >= 0 else 100 - step)
        if step < 0:
            late[1].grad = None
        second.step()
    assert first.state[early[1]]["step"] == second.state[late[1]]["step"] == 3
    assert torch.equal(early[1], late[1])
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(first.state[early[1]][name], second.state[late[1]][name])


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("state_dtype", FEWER)
def test_no_two_roundings_share_their_chances(state_dtype, executor):
    """Neither of two parameters, nor of two updates."""
    alike = [torch.nn.Parameter(torch.ones(1000)) for _ in range(2)]
    optimizer = class_of("lion")(alike, state_dtype=state_dtype, executor=executor, betas=(0.9, 0))
    seen = []
    for _ in range(2):
        for p in alike:
            p.grad = torch.linspace(1.0, 3.0, 1000)  # which is all that is stored
        optimizer.step()
        seen += [optimizer.state[p]["exp_avg"].clone() for p in alike]
    for k, one in enumerate(seen):
        for other in seen[:k]:
            assert 0.1 < (one != other).double().mean() < 0.6


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("state_dtype", FEWER)
def test_channels_last_is_stored_as_it_lies(state_dtype, executor):
    """As the tensor that lies in the same order without being called so."""

    def trained(shape, lie):
        value = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        p = torch.nn.Parameter(lie(value))
        optimizer = class_of("adamw")([p], state_dtype=state_dtype, executor=executor)
        for step in range(3):
            p.grad = lie(torch.sin(value * (step + 1)))
            optimizer.step()
        kept = [optimizer.state[p][name] for name in ("exp_avg", "exp_avg_sq")]
        return [p.detach(), *kept]

    plain = trained((5, 4, 6, 7), lambda x: x)
    channels = trained((5, 4, 6, 7), lambda x: x.permute(0, 3, 1, 2))
    for x, y in zip(plain, channels, strict=True):
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, y.permute(0, 2, 3, 1))


# what is kept, and what is refused


@pytest.mark.parametrize("state_dtype", FEWER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_what_is_like_a_weight_stays_whole(dtype, state_dtype):
    params, optimizer = stepped("asgd", dtype, state_dtype=state_dtype)
    for p in params:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert optimizer.state[p]["ax"].dtype == wide


def test_gradients_are_not_written():
    params = parameters(torch.bfloat16)
    gradients(params, 0)
    before = [p.grad.clone() for p in params]
    for executor in EXECUTORS:
        class_of("adamw")(params, state_dtype="int8", master="split", executor=executor).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))


def refused(message, make, *args, **options):
    with pytest.raises(UsageError, match=message) as error:
        make(*args, **options)
    assert "\n" not in str(error.value)


def test_what_cannot_be_stored_so_is_refused():
    adamw = class_of("adamw")
    for dtype in (torch.float32, torch.float16):
        kind = str(dtype).removeprefix("torch.")
        message = f"^master=split is for bfloat16 parameters, these are {kind}$"
        refused(message, adamw, parameters(dtype), master="split")
    adamw([*parameters(), *parameters(torch.bfloat16)], master="split")  # some are
    for name in ("adafactor", "adafactor_hf"):
        for option in ({"state_dtype": "int8"}, {"state_dtype": "bfloat16"}, {"master": "split"}):
            [(key, value)] = option.items()
            message = f"^{key}={value} is for optimizers that look at one coordinate at a time, "
            refused(message, class_of(name), parameters(torch.bfloat16), **option)
            group = {"params": parameters(torch.bfloat16), **option}
            refused(message, class_of(name), [group])
