"""Norms of gradients, updates and parameters, against a step computed here."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lit_optim import AdamW
from lit_optim.callbacks.health import Health, _norm
from tests.events import scalars
from tests.lightning.modules import Data, Plain, attach, trainer

LR = 0.05


def norm(tensors):
    return sum(x.square().sum() for x in tensors).sqrt().item()


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_equals_a_loop_by_hand(clip, accumulated, tmp_path):
    torch.manual_seed(0)
    module = attach(Plain(), partial(AdamW, lr=LR, weight_decay=0.1))
    t = trainer(
        tmp_path, max_steps=10, logger=TensorBoardLogger(tmp_path, name="", version=""),
        callbacks=[Health(every=4)], gradient_clip_val=clip, accumulate_grad_batches=accumulated,
    )  # fmt: skip
    t.fit(module, Data(batches=20))
    curves = scalars(tmp_path)
    torch.manual_seed(0)
    other = Plain()
    decayed = [other.net[0].weight, other.net[2].weight]
    vectors = [p for p in other.parameters() if p.ndim < 2]
    groups = [{"params": decayed}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=0.1, foreach=False)
    batches, clipped = iter(Data(batches=20).train_dataloader()), []
    for step in range(10):
        optimizer.zero_grad()
        for _ in range(accumulated):
            (other.net(next(batches)[0]).square().mean() / accumulated).backward()
        if step % 4 == 0:
            clipped.append(norm([p.grad for p in other.parameters()]) > (clip or 1e9))
        if clip:
            torch.nn.utils.clip_grad_norm_(other.parameters(), clip)
        before = [p.detach().clone() for p in decayed]
        optimizer.step()
        if step % 4:
            continue
        moved = norm([p.detach() - b for p, b in zip(decayed, before, strict=True)])
        close = partial(pytest.approx, rel=1e-5)
        assert curves["grad_norm/decay"][step] == close(norm([p.grad for p in decayed]))
        assert curves["param_norm/decay"][step] == close(norm(before))
        assert curves["update_norm/decay"][step] == close(moved)
        assert curves["update_ratio/decay"][step] == close(moved / norm(before))
        if clip:
            assert curves["clip_fraction"][step] == pytest.approx(sum(clipped) / len(clipped))
    assert sorted(curves["grad_norm/decay"]) == [0, 4, 8]
    assert ("clip_fraction" in curves) == (clip is not None)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e20, 1e30])
def test_norms_of_any_size(size):
    x = size * torch.tensor([3.0, -4.0])
    kinds = [x, torch.complex(x[:1], x[1:]), torch.sparse_coo_tensor([[0, 2]], x, (3,))]
    for kind in kinds:
        assert float(_norm([kind])) == pytest.approx(5 * size, rel=1e-6)
    assert float(_norm([x, x])) == pytest.approx(math.sqrt(50) * size, rel=1e-6)
