"""States that cannot be saved or loaded as asked are refused in one line, on all processes."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_optim import AdamW, Ema, Muon
from lit_optim.errors import UsageError
from lit_optim.kernels.precision import BLOCK
from lit_optim.optimizers.base import eight_bits
from tests.sharding.processes import processes


def placed(shape: tuple[int, ...], *placements: Any, sizes: tuple[int, ...] = (2,)) -> nn.Parameter:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    mesh = init_device_mesh("cpu", sizes)
    torch.manual_seed(0)
    return nn.Parameter(distribute_tensor(torch.randn(shape), mesh, placements))


def train(p: Tensor, optimizer: Any, steps: int = 3) -> None:
    for step in range(steps):
        p.grad = torch.sin(p.detach() * (step + 1))
        optimizer.step()


def refusal(function: Any, *arguments: Any, **more: Any) -> str | None:
    try:
        function(*arguments, **more)
    except (UsageError, ValueError) as error:
        return str(error)
    return None


def divide_blocks(shape: tuple[int, ...], dim: int) -> tuple[str | None, bool]:
    """The refusal of int8, and whether what is saved is what one process would have saved."""
    from torch.distributed.tensor import Shard

    p = placed(shape, Shard(dim))
    line = refusal(AdamW, [p], state_dtype="int8")
    if line is not None:
        return line, True
    optimizer = AdamW([p], state_dtype="int8")
    q = nn.Parameter(p.full_tensor().detach())
    alone = AdamW([q], state_dtype="int8")
    steps, most = (3, 0) if dim == 0 else (1, 1)  # the chances of rounding are of runs of elements
    train(p, optimizer, steps)
    train(q, alone, steps)
    found, expected = optimizer.state_dict()["state"][0], alone.state_dict()["state"][0]
    same = found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Tensor):
            whole = found[name].full_tensor()
            far = (whole.double() - value.double()).abs().max() > (0 if "scale" in name else most)
            same &= whole.dtype == value.dtype and not far
    return None, same


@pytest.mark.parametrize(
    ("shape", "dim", "fits"),
    [
        ((4, 2 * BLOCK), 1, True),
        ((5, 2 * BLOCK), 0, True),
        ((4, 2, BLOCK), 1, True),
        ((4, BLOCK), 1, False),
        ((4, 2, BLOCK), 2, False),
        ((3, 3 * BLOCK), 1, False),
    ],
)
def test_int8_states_are_the_same_blocks_or_refused_before_the_first_step(shape, dim, fits):
    for line, same in processes(2).run(divide_blocks, shape, dim):
        assert same
        assert (line is None) == fits
        assert fits or ("number 0" in line and "state_dtype" in line and "\n" not in line)


def mix_formats(before: str, after: str, folder: str) -> str:
    """Load by torch.distributed.checkpoint what was saved at another precision."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.tensor import Shard

    p = placed((4, BLOCK), Shard(0))
    first, second = AdamW([p], state_dtype=before), AdamW([p], state_dtype=after)
    train(p, first)
    train(p, second, 1)
    dcp.save(first.state_dict(), checkpoint_id=folder)
    try:
        dcp.load(second.state_dict(), checkpoint_id=folder)
    except BaseException as error:
        return str(error)
    return ""


def test_codes_are_never_read_as_values(tmp_path):
    for k, (before, after) in enumerate([("int8", "float32"), ("float32", "int8")]):
        for words in processes(2).run(mix_formats, before, after, str(tmp_path / str(k))):
            assert "Size mismatch" in words or "Missing key" in words


def test_a_state_is_recoded_to_the_same_codes():
    """Where rows are not made of blocks, a state dict has values, of every magnitude."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(7, 300) * torch.logspace(-18, 18, 7)[:, None])
    optimizer = AdamW([p], state_dtype="int8")
    train(p, optimizer)
    saved = optimizer.state_dict()
    assert saved["state"][0]["exp_avg"].dtype == torch.float32
    assert not eight_bits.has_whole_blocks(p)
    other = AdamW([p], state_dtype="int8")
    other.load_state_dict(saved)
    for name, value in optimizer.state[p].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other.state[p][name])), name


@pytest.mark.parametrize("shape", [(3, BLOCK), (5, 60), (7,)])
@pytest.mark.parametrize("state_dtype", ["int8", "float32"])
def test_codes_of_earlier_versions_are_read(shape, state_dtype):
    """They were saved as they lay in memory."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(shape))
    optimizer = AdamW([p], state_dtype="int8")
    train(p, optimizer)
    old = optimizer.state_dict() | {"state": {0: dict(optimizer.state[p])}}
    assert old["state"][0]["exp_avg_scale"].ndim == 1
    other, expected = AdamW([p], state_dtype=state_dtype), AdamW([p], state_dtype=state_dtype)
    other.load_state_dict(old)
    expected.load_state_dict(optimizer.state_dict())
    for name, value in expected.state[p].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other.state[p][name])), name


def save_parts() -> bytes:
    from torch.distributed.tensor import Shard

    p = placed((5, 3), Shard(0))
    optimizer = AdamW([p])
    train(p, optimizer)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    return file.getvalue()


def load_parts(data: bytes, sharded: bool) -> str | None:
    import torch.distributed as dist
    import torch.distributed.tensor
    from torch.distributed.tensor import Shard

    size = dist.get_world_size() if sharded else 1
    p = placed((5, 3), Shard(0), sizes=(size,)) if sharded else nn.Parameter(torch.randn(5, 3))
    return refusal(AdamW([p]).load_state_dict, torch.load(io.BytesIO(data), weights_only=True))


def test_a_part_of_a_state_is_no_state_of_a_run_on_other_processes():
    """Saved by torch.save on each of two processes, not by torch.distributed.checkpoint."""
    data = processes(2).run(save_parts)
    lines = [*processes(3).run(load_parts, data[0], True), load_parts(data[1], False)]
    lines += processes(2).run(load_parts, data[0], True)[1:]  # the other's
    for line in lines:
        assert "torch.distributed.checkpoint" in line
        assert "\n" not in line


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))


def stepped(make: Any, net: nn.Module) -> Any:
    optimizer = make(net)
    net(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return optimizer


DAMAGES = {
    "no dict": (lambda saved: [saved], "state dict"),
    "no groups": (lambda saved: {"state": saved["state"]}, "param_groups"),
    "no params": (lambda saved: saved | {"param_groups": [{"lr": 1.0}]}, "param_groups"),
    "a state is a number": (lambda saved: saved | {"state": {0: 3}}, "states"),
    "the count is words": (lambda saved: change(saved, "step", "many"), "step of parameter"),
    "the count is negative": (lambda saved: change(saved, "step", -3), "number of updates"),
    "the count is a list": (lambda saved: change(saved, "step", [1]), "step of parameter"),
    "another shape": (lambda saved: change(saved, "exp_avg", torch.ones(2, 2)), "shape"),
    "other codes": (lambda saved: change(saved, "exp_avg_scale", torch.ones(1, 1)), "shape"),
    "nothing of a state": (lambda saved: change(saved, "exp_avg", None), "exp_avg"),
}


def change(saved: Any, name: str, value: Any) -> Any:
    states = {k: dict(state) for k, state in saved["state"].items()}
    states[0][name] = value
    return saved | {"state": states}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("make", [AdamW, lambda net: Ema(AdamW(net))], ids=["plain", "wrapped"])
def test_a_damaged_state_is_refused_in_one_line(make, damage):
    change_it, words = DAMAGES[damage]
    saved = stepped(make, model()).state_dict()
    line = refusal(make(model()).load_state_dict, change_it(saved))
    assert line is not None
    assert words in line
    assert "\n" not in line


def test_a_state_of_another_shape_or_optimizer_is_refused_in_one_line():
    saved = stepped(Muon, model()).state_dict()
    wide = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    for line in (
        refusal(Muon(wide).load_state_dict, saved),
        refusal(Ema(AdamW(model())).load_state_dict, stepped(AdamW, model()).state_dict()),
    ):
        assert line is not None
        assert "\n" not in line
