"""ignite's own handlers around our schedules, compared with the same around torch's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from lit_optim import AdamW, schedule
from lit_optim import schedules as S
from tests.clients.conftest import import_client

engine = import_client("ignite.engine")
handlers = import_client("ignite.handlers")
Events = engine.Events

BATCHES, EPOCHS = 4, 3
STEPS = BATCHES * EPOCHS
#: torch's scheduler, and ours of the same formula. ignite calls `get_lr` of the first update again,
#: which is the lr of the second one in those of torch that compute an lr from the last one.
PAIRS = {
    "step": (lambda o: theirs.StepLR(o, 3, 0.5), lambda o: schedule(o, S.step(3, 0.5))),
    "exponential": (
        lambda o: theirs.LambdaLR(o, lambda t: 0.8**t),
        lambda o: schedule(o, S.ExponentialLR(0.8)),
    ),
    "cosine": (
        lambda o: theirs.LambdaLR(o, lambda t: (1 + math.cos(math.pi * t / STEPS)) / 2),
        lambda o: schedule(o, S.cosine(step_alignment="start"), steps=STEPS),
    ),
}


def run(make, attach, optimizer_class=torch.optim.SGD):
    """Train, and return the lr of each update, the scheduler and the trainer."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = optimizer_class(model.parameters(), lr=0.1)
    scheduler = make(optimizer)
    seen = []
    optimizer.register_step_post_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    trainer = engine.create_supervised_trainer(model, optimizer, torch.nn.functional.mse_loss)
    attach(trainer, scheduler)
    x = torch.randn(BATCHES * 8, 3)
    batches = [(x[k::BATCHES], x[k::BATCHES].sum(1, keepdim=True)) for k in range(BATCHES)]
    trainer.run(batches, max_epochs=EPOCHS)
    return seen, scheduler, trainer


def by_a_step(event):
    def attach(trainer, scheduler):
        trainer.add_event_handler(event, lambda: scheduler.step())

    return attach


def by_its_handler(trainer, scheduler):
    handler = handlers.LRScheduler(scheduler, save_history=True)
    trainer.add_event_handler(Events.ITERATION_STARTED, handler)


def by_its_warmup(trainer, scheduler):
    handler = handlers.create_lr_scheduler_with_warmup(
        scheduler, warmup_start_value=0.0, warmup_duration=4
    )
    trainer.add_event_handler(Events.ITERATION_STARTED, handler)


@pytest.mark.parametrize("event", [Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED])
@pytest.mark.parametrize("name", PAIRS)
def test_a_step_at_an_event(name, event):
    torchs, ours = PAIRS[name]
    expected, _, _ = run(torchs, by_a_step(Events.ITERATION_COMPLETED))
    found, scheduler, _ = run(ours, by_a_step(event), AdamW)
    assert found == pytest.approx(expected)
    assert scheduler.last_epoch == STEPS


@pytest.mark.parametrize("attach", [by_its_handler, by_its_warmup])
@pytest.mark.parametrize("name", PAIRS)
def test_its_own_handlers_decide(name, attach):
    """They set the lr and `last_epoch` themselves, and never call `step`."""
    torchs, ours = PAIRS[name]
    expected, _, _ = run(torchs, attach)
    found, _, trainer = run(ours, attach)
    assert found == pytest.approx(expected)
    if attach is by_its_handler:
        assert [lr for [lr] in trainer.state.param_history["lr"]] == pytest.approx(expected)


@pytest.mark.parametrize("name", PAIRS)
def test_a_simulation_leaves_the_schedule_as_it_was(name):
    """It saves, moves and loads the scheduler."""
    found = []
    for make in PAIRS[name]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        scheduler = make(optimizer)
        before = copy.deepcopy(scheduler.state_dict())
        found.append(handlers.LRScheduler.simulate_values(STEPS, scheduler))
        assert scheduler.state_dict()["last_epoch"] == before["last_epoch"]
        assert optimizer.param_groups[0]["lr"] == 0.1
    for one, other in zip(*found, strict=True):
        assert other == pytest.approx(one)


def test_a_checkpoint_resumes(tmp_path):
    expected, *_ = run(PAIRS["cosine"][1], by_a_step(Events.ITERATION_COMPLETED))
    saver = handlers.ModelCheckpoint(tmp_path, "run", require_empty=False)

    def saving(trainer, scheduler):
        by_a_step(Events.ITERATION_COMPLETED)(trainer, scheduler)
        objects = {"optimizer": scheduler.optimizer, "scheduler": scheduler, "trainer": trainer}
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), saver, objects)

    def loading(trainer, scheduler):
        by_a_step(Events.ITERATION_COMPLETED)(trainer, scheduler)
        objects = {"optimizer": scheduler.optimizer, "scheduler": scheduler, "trainer": trainer}
        handlers.Checkpoint.load_objects(objects, torch.load(saver.last_checkpoint))

    run(PAIRS["cosine"][1], saving)
    found, scheduler, _ = run(PAIRS["cosine"][1], loading)
    assert found == pytest.approx(expected[BATCHES:])
    assert scheduler.last_epoch == STEPS
