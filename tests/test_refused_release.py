"""What cannot be released is refused: optimizers, models, backward passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lit_optim
from lit_optim import AdamW, Sam, UsageError, release_gradients
from tests.optimizers.running import NAMES, class_of
from tests.releasing import RELEASED, Net

REFUSED = sorted({*NAMES} - {*RELEASED})


def test_a_second_gradient_is_refused():
    model = Net()
    optimizer = AdamW(model.parameters())
    release_gradients(model, optimizer)
    model(torch.ones(2, 5), 0).sum().backward()
    with pytest.raises(UsageError, match=r"^parameter head\.\w+ got a second gradient before step"):
        model(torch.ones(2, 5), 0).sum().backward()


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_need_all_gradients(name):
    model = Net()
    optimizer = class_of(name)(model.parameters())
    with pytest.raises(UsageError, match="released") as caught:
        release_gradients(model, optimizer)
    assert "\n" not in str(caught.value)
    model(torch.ones(2, 5), 0).sum().backward()
    assert model.head.weight.grad is not None


class DistributedDataParallel(nn.Module):
    """Has the name of torch's, and needs no processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: (m, Sam(AdamW(m))), "Sam evaluates the loss again"),
        (
            lambda m: (m, torch.optim.AdamW(m.parameters())),
            "AdamW is from torch; use lit_optim.AdamW",
        ),
        (lambda m: (DistributedDataParallel(m), AdamW(m)), "averages gradients after"),
        (lambda m: (m.head, AdamW(m.norm)), "none of the model's parameters"),
        (lambda m: (AdamW(m), m), "model is an AdamW"),
        (lambda m: (m, None), "optimizer is None"),
    ],
)
def test_what_cannot_be_released_is_refused(make, message):
    with pytest.raises(UsageError, match=message) as caught:
        release_gradients(*make(Net()))
    assert "\n" not in str(caught.value)


def test_gradients_from_before_are_refused():
    model = Net()
    model(torch.ones(2, 5), 0).sum().backward()
    with pytest.raises(UsageError, match="has a gradient already"):
        release_gradients(model, AdamW(model))
    with pytest.raises(UsageError, match="clip_value must be a number > 0"):
        release_gradients(Net(), AdamW(model), clip_value=0.0)


def test_eval_mode_of_an_averaging_optimizer_is_refused_before_anything_changes():
    model = Net()
    optimizer = lit_optim.ScheduleFreeAdamW(model)
    release_gradients(model, optimizer)
    optimizer.eval()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UsageError, match=r"call train\(\) before step"):
        model(torch.ones(2, 5), 0).sum().backward()
    assert all(map(torch.equal, model.parameters(), before))


def test_old_values_that_are_needed_after_the_update_are_missed():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Sequential(first, second)
    optimizer = AdamW(model)
    release_gradients(model, optimizer)
    h = torch.tanh(first(torch.ones(2, 4)))
    h = h @ second.weight.detach()  # its backward pass comes after that of the next line
    loss = second(h).square().sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_loss_scaler_is_refused_before_anything_changes():
    model = Net()
    optimizer = AdamW(model)
    release_gradients(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    before = [p.detach().clone() for p in model.parameters()]
    loss = scaler.scale(model(torch.ones(2, 5), 0).sum())
    with pytest.raises(UsageError, match="a loss scaler looks at all gradients"):
        loss.backward()
    assert all(map(torch.equal, model.parameters(), before))


def _used_scaler():
    """A loss scaler that another model has trained with."""
    scaler = torch.amp.GradScaler("cpu")
    other = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    scaler.scale(other(torch.ones(2, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    return scaler


def _unreachable_scaler():
    """A loss scaler that nothing uses any more, in a cycle that waits for its collection."""
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.itself = scaler


@pytest.mark.parametrize("make", [_used_scaler, _unreachable_scaler])
def test_the_loss_scaler_of_another_model_is_none_of_ours(make):
    kept = make()
    model = Net()
    optimizer = AdamW(model)
    release_gradients(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 5), 1).sum().backward()
    optimizer.step()
    assert not all(map(torch.equal, model.parameters(), before))
    del kept
