"""Bases and roots of matrices are refreshed in turns, and follow their factors."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
from torch import nn

from lit_optim import SOAP, Shampoo
from lit_optim.optimizers.base import linalg
from lit_optim.optimizers.base.refreshes import Refresh, take_turns
from lit_optim.optimizers.shampoo import cut, find_block, join
from tests.optimizers.running import difference

MAKES = [SOAP, Shampoo]
#: One layer of GPT-2 small.
GPT2 = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def train(optimizer, params, first, last):
    for step in range(first, last):
        for index, p in enumerate(params):
            p.grad = drawn(*p.shape, seed=1000 * index + step)
        optimizer.step()


def made(make, shapes, **settings):
    params = [nn.Parameter(drawn(*shape, seed=k)) for k, shape in enumerate(shapes)]
    return make([{"params": params, "role": "hidden"}], **settings), params


@pytest.mark.parametrize("layers", [2, 12])
def test_no_update_has_much_more_work_than_another(layers):
    costs = [float(side) ** 3 for shape in GPT2 * layers for side in shape]
    loads = [0.0] * 10
    for cost, turn in zip(costs, take_turns([Refresh(c, 10) for c in costs]), strict=True):
        loads[turn] += cost
    assert max(loads) <= max(1.2 * sum(costs) / 10, max(costs))


def test_turns_are_within_their_periods_and_as_even_as_can_be():
    random = Random(0)
    for _ in range(50):
        refreshes = [Refresh(random.random(), random.choice((1, 3, 10**9))) for _ in range(20)]
        turns = take_turns(refreshes)
        assert turns == take_turns(list(refreshes))
        for period in (1, 3, 10**9):
            loads = {}
            for (cost, every), turn in zip(refreshes, turns, strict=True):
                assert 0 <= turn < every
                if every == period:
                    loads[turn] = loads.get(turn, 0.0) + cost
            costs = [cost for cost, every in refreshes if every == period]
            best = max(sum(costs) / period, *costs, 0.0)
            assert max(loads.values(), default=0.0) <= 4 / 3 * best + 1e-9


@pytest.mark.parametrize("make", MAKES)
def test_each_side_is_refreshed_once_in_a_period(make, monkeypatch):
    done, real = [], linalg.refresh_eigenbasis

    def refresh(a, basis):
        done[-1] += len(a)
        return real(a, basis)

    monkeypatch.setattr(linalg, "refresh_eigenbasis", refresh)
    optimizer, params = made(make, [(4, 4)] * 4, precondition_frequency=4)
    for step in range(20):
        done.append(0)
        train(optimizer, params, step, step + 1)
    assert done[12:] == [2] * 8  # eight sides in four updates
    assert optimizer.failures == 0


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("met", [2, 5, 11])
def test_a_resumed_run_has_the_same_turns(make, met):
    shapes = [(5, 4), (4, 6), (4, 6)]
    straight, expected = made(make, shapes, precondition_frequency=4)
    extra = {"params": [nn.Parameter(drawn(3, 7, seed=9))], "role": "hidden"}
    straight.add_param_group(extra)
    expected = [*expected, extra["params"][0]]
    train(straight, expected, 0, met)
    params = [nn.Parameter(p.detach().clone()) for p in expected]
    groups = [{"params": params[:3], "role": "hidden"}, {"params": params[3:], "role": "hidden"}]
    resumed = make(groups, precondition_frequency=4)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    train(straight, expected, met, 16)
    train(resumed, params, met, 16)
    assert difference(params, expected) == 0


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25, 0.0])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_first_bases_are_eigenvectors(shape, scale):
    x = drawn(3, *shape)
    x[1] = x[1, :, :1] @ x[1, :1]  # of rank 1
    bases = linalg.compute_eigenbases((x * scale).float(), True, True)
    for basis, square in ((bases["left"], x @ x.mT), (bases["right"], x.mT @ x)):
        q = basis.double()
        identity = torch.eye(q.shape[-1], dtype=q.dtype).expand_as(q)
        torch.testing.assert_close(q.mT @ q, identity, rtol=0, atol=1e-5)
        if scale:
            found = q.mT @ square @ q
            values = torch.linalg.eigvalsh(square).flip(-1)
            torch.testing.assert_close(found, torch.diag_embed(values), rtol=0, atol=1e-4)
    short = "left" if shape[0] < shape[1] else "right"
    alone = linalg.compute_eigenbases(x, short == "left", short == "right")
    assert list(alone) == [short]


def test_eigenvectors_follow_a_matrix_from_any_basis():
    q = torch.linalg.qr(drawn(3, 6, 6))[0]
    values = torch.tensor([32.0, 16.0, 8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    a = (q * values) @ q.mT
    basis = torch.eye(6, dtype=torch.float64).repeat(3, 1, 1)
    basis[1] = 0  # has none yet
    vectors, first = linalg.follow_eigenvectors(a, basis)
    torch.testing.assert_close(first[1].sort(descending=True)[0], values)
    for _ in range(40):
        vectors, found = linalg.follow_eigenvectors(a, vectors)
    torch.testing.assert_close(found, values.expand(3, 6))
    root = linalg.power(vectors, found, -0.25, 0.0)
    torch.testing.assert_close(
        torch.linalg.matrix_power(root, 4) @ a, torch.eye(6).expand_as(a) * 1.0, check_dtype=False
    )


@pytest.mark.parametrize(
    ("size", "most", "block"),
    [
        (512, 512, 512),
        (768, 512, 384),
        (3072, 512, 512),
        (2304, 512, 384),
        (600, None, 600),
        (1031, 512, 1031),
        (2 * 1031, 512, 2 * 1031),
        (514, 512, 257),
        (6, 1, 1),
        (1, 8, 1),
    ],
)
def test_a_side_is_divided_evenly_into_blocks_or_not_at_all(size, most, block):
    assert find_block(size, most) == block


def test_blocks_are_joined_again():
    x = drawn(2, 6, 8)
    blocks = cut(x, (3, 4))
    assert torch.equal(blocks[1], x[0, :3, 4:])
    assert torch.equal(join(blocks, x.shape), x)


def test_blocks_are_preconditioned_as_if_each_were_a_matrix():
    """Up to the norm, which is that of the whole."""
    settings = {"precondition_frequency": 3, "lr": 1.0, "weight_decay": 0.0}
    whole, [p] = made(Shampoo, [(4, 6)], block_size=3, **settings)
    parts = [nn.Parameter(p.detach()[rows, columns].clone()) for rows, columns in blocks_of_p()]
    apart = Shampoo([{"params": parts, "role": "hidden"}], block_size=None, **settings)
    for step in range(9):
        g, before = drawn(4, 6, seed=step), p.detach().clone()
        p.grad = g
        for part, (rows, columns) in zip(parts, blocks_of_p(), strict=True):
            part.grad = g[rows, columns].clone()
            part.data.copy_(before[rows, columns])
        whole.step()
        apart.step()
    moved = (p.detach() - before)[:2, :3]
    alone = parts[0].detach() - before[:2, :3]
    cosine = (moved * alone).sum() / moved.norm() / alone.norm()
    assert cosine > 0.95  # the turns differ


def blocks_of_p():
    return [(slice(i, i + 2), slice(j, j + 3)) for i in (0, 2) for j in (0, 3)]


def test_a_shampoo_from_before_goes_on_without_blocks():
    """Its state had no bases; its next refresh is a full decomposition, as all of its were."""
    kept, params = made(Shampoo, [(5, 4)], precondition_frequency=4, block_size=None)
    train(kept, params, 0, 10)
    saved = copy.deepcopy(kept.state_dict())
    for state in saved["state"].values():
        del state["left_basis"], state["right_basis"]
    del saved["param_groups"][0]["block_size"]
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    now = Shampoo([{"params": copies, "role": "hidden"}], block_size=2)
    now.load_state_dict(saved)
    assert now.param_groups[0]["block_size"] is None
    rest = [{"params": [drawn(3)], "role": "vector"}]
    both = Shampoo([{"params": [drawn(3, 4)], "role": "hidden"}, *rest])
    keys = [set(group) for group in both.param_groups]
    both.load_state_dict(both.state_dict())
    assert [set(group) for group in both.param_groups] == keys
    calls, real = [], linalg.eigen

    def eigen(a):
        calls.append(tuple(a.shape))
        return real(a)

    linalg.eigen = eigen
    try:
        train(now, copies, 10, 16)
    finally:
        linalg.eigen = real
    assert sorted(calls) == [(1, 4, 4), (1, 5, 5)]
    factor = now.state[copies[0]]["right"]
    assert factor.shape == (1, 4, 4)
    train(kept, params, 10, 16)
    assert 0 < difference(copies, params) < 0.01
