"""The schedule of each of several optimizers is over the updates that this optimizer makes."""

from __future__ import annotations

import math
from functools import partial

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from lit_optim.callbacks.learning_rates import LearningRates
from lit_optim.callbacks.schedule_lengths import EARLY_BATCHES
from lit_optim.errors import UsageError
from lit_optim.schedules.library import cosine, linear
from tests.events import scalars
from tests.lightning.gan import BATCHES, LR, Gan, both, falling
from tests.lightning.modules import Data, Plain, attach, fit, trainer


@pytest.mark.parametrize(
    ("every", "critic_steps", "generator", "critic", "run", "made"),
    [
        (1, 1, {}, {}, {"max_steps": 40}, (20, 20)),
        (1, 1, {}, {}, {"max_epochs": 3}, (30, 30)),
        (5, 1, {"updates_per_batch": 1 / 5}, {}, {"max_epochs": 3}, (6, 30)),
        (5, 1, {"updates_per_batch": 0.2}, {}, {"max_steps": 36}, (6, 30)),
        (5, 1, {"updates_per_batch": 0.2}, {}, {"max_steps": 36, "max_epochs": 9}, (6, 30)),
        (5, 1, {"updates_per_batch": 0.2}, {}, {"max_steps": 99, "max_epochs": 3}, (6, 30)),
        (1, 5, {}, {"updates_per_batch": 5}, {"max_steps": 60}, (10, 50)),
        (1, 5, {}, {"updates_per_batch": 5}, {"max_epochs": 2}, (20, 100)),
        (3, 2, {"updates_per_batch": 1 / 3}, {"updates_per_batch": 2}, {"max_epochs": 3}, (10, 60)),
        (5, 1, {"steps": 6}, {}, {"max_steps": 36}, (6, 30)),
        (5, 1, {"steps": 6}, {"steps": 30}, {"max_epochs": 3}, (6, 30)),
        # both accumulate four batches
        (4, 1, {"updates_per_batch": 1 / 4}, {}, {"max_epochs": 2}, (5, 20)),
    ],
)
def test_each_schedule_covers_the_updates_of_its_optimizer(
    tmp_path, messages, every, critic_steps, generator, critic, run, made
):
    module = Gan(both(generator, critic), every, critic_steps)
    fit(tmp_path, module, **run)
    assert module.used == (falling(made[0]), falling(made[1]))
    assert messages() == []


def test_an_epoch_has_the_updates_of_the_optimizer(tmp_path):
    """A warmup of an epoch of 10 batches are 2 updates of an optimizer with one in 5 batches."""
    schedule = partial(linear, warmup="1 epoch")
    module = Gan(both({"updates_per_batch": 1 / 5}, schedule=schedule), every=5)
    fit(tmp_path, module, max_epochs=3)
    assert module.used[0] == pytest.approx(
        [LR / 2, LR, 0.75 * LR, 0.5 * LR, 0.25 * LR, 0], abs=1e-9
    )
    assert module.used[1][:10] == pytest.approx([LR * (t + 1) / 10 for t in range(10)])


def test_what_is_not_said_is_warned_of(tmp_path, messages):
    """Early in a long run, and at its end."""
    module = Gan(both(), every=5)
    fit(tmp_path, module, max_epochs=2 * EARLY_BATCHES // BATCHES)
    early, late = messages()
    assert early.startswith(
        f"SGD has made {EARLY_BATCHES // 5} updates in {EARLY_BATCHES} batches, so the run will "
        f"make about {2 * EARLY_BATCHES // 5}, but its schedule was made for {2 * EARLY_BATCHES}: "
        "updates_per_batch or steps"
    )
    assert late == (
        f"the schedule of SGD was made for {2 * EARLY_BATCHES} updates, but the run made "
        f"{2 * EARLY_BATCHES // 5}: total={2 * EARLY_BATCHES // 5} lets it end with the "
        "run"
    )


def test_wrong_steps_are_warned_of(tmp_path, messages):
    fit(tmp_path, Gan(both({"steps": 7}), every=5), max_epochs=3)
    assert messages() == [
        "the schedule of SGD was made for 7 updates, but the run made 6: steps=6 lets it end with "
        "the run"
    ]


def test_steps_where_the_run_has_no_known_length(tmp_path):
    module = attach(Plain(), scheduler=cosine(), steps=20)
    trainer(tmp_path, max_epochs=-1, max_time="00:00:05:00", callbacks=[Stop(20)]).fit(
        module, Data(BATCHES)
    )
    expected = [LR * (1 + math.cos(math.pi * (t + 1) / 20)) / 2 for t in range(20)]
    assert [lrs[0] for lrs in module.lrs] == pytest.approx(expected)


class Stop(Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = trainer.global_step == self.steps


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of updates > 0, got 0"),
        ({"steps": 2.5}, "steps must be a whole number of updates > 0, got 2.5"),
        ({"steps": True}, "steps must be a whole number"),
        ({"updates_per_batch": 0}, "updates_per_batch must be a number > 0, such as 1/5, got 0"),
        ({"updates_per_batch": "1/5"}, "updates_per_batch must be a number > 0"),
        ({"updates_per_batch": math.inf}, "updates_per_batch must be a number > 0"),
        ({"updates_per_batch": 2}, "updates_per_batch=2 is for manual optimization"),
        (
            {"steps": 9, "scheduler": cosine(total=8)},
            "steps=9 and total=8 of the schedule are both",
        ),
    ],
)
def test_other_numbers_are_refused(tmp_path, parts, message):
    module = attach(Plain(), **({"scheduler": cosine()} | parts))
    with pytest.raises(UsageError, match=message):
        fit(tmp_path, module, max_epochs=1)


def test_the_plan_is_over_the_updates_of_the_optimizer(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    module = Gan(both({"updates_per_batch": 1 / 5}), every=5)
    run = {"logger": logger, "log_every_n_steps": 1, "max_epochs": 2}
    fit(tmp_path, module, [LearningRates()], **run)
    curves = scalars(tmp_path)
    for place, made in ((0, 4), (1, 20)):
        for tag in ("plan", "lr"):
            values = list(curves[f"{tag}/SGD{place}/decay"].values())
            expected = [LR * (made - 1 - t) / made for t in range(made)]
            assert values == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_two_optimizers_resume_longer(tmp_path):
    """In Python; each schedule goes on at its update."""
    path = tmp_path / "first.ckpt"
    fit(tmp_path, Gan(both()), max_epochs=1).save_checkpoint(path)
    extended = Gan(both({"horizon": "extend"}, {"horizon": "extend"}))
    trainer(tmp_path, max_epochs=2).fit(extended, Data(BATCHES), ckpt_path=path, weights_only=True)
    for used in extended.used:
        assert used == pytest.approx([LR * (19 - t) / 20 for t in range(10, 20)], abs=1e-15)
