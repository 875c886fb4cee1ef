"""Batches gathered together are what they are one by one, and know nothing of the others."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from lit_optim.tasks.char_lm import Windows
from lit_optim.tasks.data import ALIGNMENT, Batches, Pairs, TensorLoader

EXACT = {"rtol": 0, "atol": 0}


def pairs(count, features, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, features, generator=generator).to(dtype)
    return Pairs(x, torch.arange(count))


def loader(dataset, batch_size, **more):
    return TensorLoader(dataset, Batches(dataset, batch_size, True, 3, **more))


class One(Pairs):
    """Gathers each batch for itself: this method is not marked."""

    def __getitem__(self, indices):
        return super().__getitem__(torch.as_tensor(indices))


@pytest.mark.parametrize("count", [1, 23, 96, 1000, 7000])
@pytest.mark.parametrize("batch_size", [1, 8, 24, 5, 5000])
@pytest.mark.parametrize("features", [1, 16, 40])
def test_the_batches_are_those_of_one_by_one(count, batch_size, features):
    dataset = pairs(count, features)
    found = list(loader(dataset, batch_size))
    expected = list(loader(One(dataset.x, dataset.y), batch_size))
    assert_close(found, expected, **EXACT)
    assert all(type(batch) is list for batch in found)


@pytest.mark.parametrize(
    "ranks",
    [{"rank": 1, "world_size": 3, "shares": shares} for shares in ("any", "equal", "nonempty")],
    ids=lambda ranks: ranks["shares"],
)
@pytest.mark.parametrize("skipped", [0, 1, 7, 99])
def test_shares_of_a_rank_and_epochs_that_are_resumed(skipped, ranks):
    dataset = pairs(500, 16)
    found, expected = loader(dataset, 24, **ranks), loader(One(dataset.x, dataset.y), 24, **ranks)
    for one in (found, expected):
        one.sampler.skip_batches(skipped)
    assert_close(list(found), list(expected), **EXACT)
    assert_close(list(found), list(expected), **EXACT)  # the next epoch skips none


def test_windows_of_a_text():
    dataset = Windows(torch.arange(5000) % 97, 64, 1)
    order = torch.cat(list(Batches(dataset, 16, True, 3).tensors()))
    for (x, y), chosen in zip(loader(dataset, 16), order.split(16), strict=True):
        at = chosen[:, None] + torch.arange(64)
        assert_close((x, y), (dataset.x[at], dataset.y[at + 1]), **EXACT)


@pytest.mark.parametrize(("batch_size", "features"), [(24, 40), (10, 3), (16, 1), (7, 16)])
def test_each_begins_where_a_tensor_of_its_own_does(batch_size, features):
    """Else a product of the same numbers could differ in its last bits from run to run."""
    for batch in loader(pairs(2000, features), batch_size):
        assert all(part.data_ptr() % ALIGNMENT == 0 for part in batch)


def test_what_is_done_to_one_is_not_done_to_others():
    batches = list(loader(pairs(200, 40), 24))
    first, second = batches[0][0], batches[1][0]
    before = second.clone()
    weight = torch.ones(40, requires_grad=True)
    loss = (second * weight).sum()
    first.mul_(0.0).requires_grad_()
    loss.backward()  # needs the second as it was
    assert_close(second, before, **EXACT)
    assert_close(weight.grad, before.sum(0), **EXACT)
    assert not second.requires_grad
    assert first._base is None
