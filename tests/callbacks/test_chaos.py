"""Runs of random parts, interrupted at random places in random ways, resume bit for bit.

Single features are tested elsewhere; what hides is in their products.
"""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from itertools import product

import pytest
import torch
from lightning.pytorch import Callback, Trainer

import lit_optim
from lit_optim.callbacks.checkpoint import Checkpoint
from lit_optim.callbacks.metric_history import MetricHistory
from lit_optim.callbacks.nonfinite import NonFinite
from lit_optim.callbacks.resumable import Resumable
from lit_optim.callbacks.signals import Signals
from lit_optim.checkpoints.files import CheckpointFiles, find_newest_intact
from lit_optim.errors import TrainingFailed, UsageError
from lit_optim.training.lengths import has_reached_max_steps
from lit_optim.wrappers import Ema, Lookahead, Sam, Wrapped
from tests.callbacks.chaotic import Net
from tests.callbacks.resuming import OPTIMIZERS, SCHEDULERS, build_choice, in_a_child, same
from tests.lightning.modules import SineData
from tests.sampling import sample

#: Not drawn: they take other parameters, or evaluate the loss again, which cannot be accumulated.
ALONE = {"muon_torch", "sparse_adam", "lbfgs", "custom"}
WRAPPERS = {
    "none": lambda o: o,
    "ema": partial(Ema, decay=0.8),
    "lookahead": partial(Lookahead, k=3),
    "sam": Sam,
}
EPOCHS = 3
HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_end",
)


#: Where an error may come between two updates.
BETWEEN = ("on_train_batch_start", "on_validation_batch_start")


class Cut(Callback):
    """Ends the run the n-th time that a hook is called, or an error the first time after that.

    An error within an update cannot be gone on from to the bit, so it comes between two.
    """

    def __init__(self, how, hook, number):
        self.how, self.left = how, number

        def called(trainer, *args, **kwargs):
            self.left -= 1
            if how != "error" and self.left == 0:
                os.kill(os.getpid(), getattr(signal, how))
            loop = trainer.fit_loop.epoch_loop
            begun = loop.batch_progress.current.ready - (hook == "on_train_batch_start")
            is_between = begun % trainer.accumulate_grad_batches == 0
            is_last = has_reached_max_steps(trainer)
            if how == "error" and self.left <= 0 and is_between and not is_last:
                raise Broken

        setattr(self, hook, called)


class Broken(Exception):
    """An error of the user's code."""


def draw(seed):
    """The parts of a run, and how it is interrupted once or twice."""
    chance = random.Random(seed)
    optimizer = chance.choice([name for name in OPTIMIZERS if name not in ALONE])
    averages = optimizer.startswith("schedule_free")
    wrapper = chance.choice(["none", "none", "sam"] if averages else list(WRAPPERS))
    accumulated = 1 if wrapper == "sam" else chance.choice([1, 2, 3, 4])
    batches = chance.choice([5, 6, 7, 8])
    bad = {}
    policy = chance.choice(["stop", "skip", "skip"])
    for _ in range(chance.choice([0, 0, 1, 3])):
        place = chance.randrange(EPOCHS), chance.randrange(batches)
        bad[place] = "nan" if policy == "skip" and chance.random() < 0.5 else "none"
    by_batches = chance.random() < 0.5
    run = {"accumulate_grad_batches": accumulated}
    if chance.random() < 0.5:
        run["gradient_clip_val"] = 0.5
    if by_batches:
        run |= {"check_val_every_n_epoch": None, "val_check_interval": chance.choice([2, 3, 5])}
    else:
        run["val_check_interval"] = chance.choice([2, 3, 1.0])
    steps = EPOCHS * -(-batches // accumulated)
    if chance.random() < 0.5:
        run |= {"max_steps": chance.randint(max(2, steps // 2), steps), "max_epochs": -1}
    else:
        run["max_epochs"] = EPOCHS
    hows = ["SIGKILL", "SIGINT", "SIGTERM", "error"]
    cuts = []
    for _ in range(chance.choice([1, 1, 2])):
        how = chance.choice(hows)
        hook = chance.choice(HOOKS if how != "error" else BETWEEN)
        cuts.append((how, hook, chance.randint(1, EPOCHS * batches)))
    return {
        "optimizer": optimizer, "wrapper": wrapper, "scheduler": chance.choice(SCHEDULERS),
        "batches": batches, "batch_size": chance.choice([2, 4]), "policy": policy, "bad": bad,
        "run": run, "cuts": cuts,
    }  # fmt: skip


def fit(path, drawn, cut=None, ckpt=None, more=None):
    """Gives the module, and whether it has come to its end."""
    torch.manual_seed(0 if ckpt is None else 99)
    make = build_choice("optimizer", drawn["optimizer"], _partial_=True)
    if drawn["wrapper"] != "none":
        make = Wrapped(make, WRAPPERS[drawn["wrapper"]])
    module = Net(make, build_choice("scheduler", drawn["scheduler"]), drawn["bad"])
    callbacks = [
        NonFinite(drawn["policy"]), MetricHistory("val/loss", "min"), Signals(), Resumable(),
        Checkpoint(path, monitor="val/loss"),
    ]  # fmt: skip
    if cut is not None:
        callbacks.insert(0, Cut(*cut))
    if more is not None:
        callbacks.insert(0, more)
    trainer = Trainer(
        callbacks=callbacks, default_root_dir=path, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, **drawn["run"],
    )  # fmt: skip
    trainer.strategy.checkpoint_io = CheckpointFiles()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data = SineData(drawn["batches"], drawn["batch_size"])
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except (Broken, SystemExit, KeyboardInterrupt):
        return module, False
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return module, True


def newest(path):
    try:
        return find_newest_intact(path)
    except UsageError:  # it was cut off before the first checkpoint
        return None


def assert_goes_on_to_the_bit(tmp_path, drawn):
    try:
        whole, _ = fit(tmp_path / "whole", drawn)
    except TrainingFailed:
        pytest.skip("it diverges")
    path = tmp_path / "parts"
    path.mkdir()
    ended = False
    for cut in drawn["cuts"]:
        if cut[0] == "SIGKILL":
            try:
                in_a_child(lambda: fit(path, drawn, cut, newest(path)))  # noqa: B023
            except AssertionError:  # it came to its end before
                return
        else:
            _, ended = fit(path, drawn, cut, newest(path))
            if ended:
                return
    rest, ended = fit(path, drawn, ckpt=newest(path))
    assert ended
    assert rest.seen == whole.seen[len(whole.seen) - len(rest.seen) :]
    assert rest.lrs == whole.lrs[len(whole.lrs) - len(rest.lrs) :]
    assert same(whole.state_dict(), rest.state_dict())
    one, other = (m.trainer.optimizers[0].state_dict() for m in (whole, rest))
    assert same(one, other)
    histories = [
        next(c for c in m.trainer.callbacks if isinstance(c, MetricHistory)) for m in (whole, rest)
    ]
    assert histories[0].final == histories[1].final
    assert histories[0].best == histories[1].best
    for name in ("best.ckpt", "last.ckpt"):
        saved = [tmp_path / part / name for part in ("whole", "parts")]
        assert saved[0].exists() == saved[1].exists()
        if saved[0].exists():
            one, other = (torch.load(file, weights_only=True) for file in saved)
            assert one["global_step"] == other["global_step"]
            assert same(one["state_dict"], other["state_dict"])


SAMPLE = 12
BIG = int(os.environ.get("LIT_OPTIM_CHAOS", "200"))


@pytest.mark.parametrize("seed", range(SAMPLE))
def test_random_runs_go_on(seed, tmp_path):
    assert_goes_on_to_the_bit(tmp_path, draw(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SAMPLE, BIG))
def test_many_random_runs_go_on(seed, tmp_path):
    assert_goes_on_to_the_bit(tmp_path, draw(seed))


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad"])
def test_no_batch_of_an_update_is_lost(how, hook, tmp_path):
    """Wherever the signal comes among the batches of an update."""
    drawn = draw(0) | {
        "optimizer": "adamw", "wrapper": "none", "scheduler": "cosine_warmup", "bad": {},
        "batches": 6, "run": {"accumulate_grad_batches": 3, "max_epochs": 2},
    }  # fmt: skip
    for number in (4, 5, 6):
        where = tmp_path / str(number)
        where.mkdir()
        assert_goes_on_to_the_bit(where, drawn | {"cuts": [(how, hook, number)]})


@pytest.mark.parametrize(("accumulated", "interval"), [(2, 3), (3, 5), (4, 5)])
def test_the_best_of_the_middle_of_an_update_is_gone_on_from(accumulated, interval, tmp_path):
    """If the run is killed before the newest is saved, at the end of that update."""
    drawn = draw(0) | {
        "optimizer": "adamw", "wrapper": "ema", "scheduler": "cosine_warmup", "bad": {},
        "batches": 7,
        "run": {
            "accumulate_grad_batches": accumulated, "val_check_interval": interval, "max_epochs": 2,
        },
        "cuts": [("SIGKILL", "on_train_batch_start", interval + 1)],
    }  # fmt: skip
    assert_goes_on_to_the_bit(tmp_path, drawn)


class Validated(Callback):
    """Notes what was validated, and with which weights."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking and trainer.global_step:
            value = trainer.callback_metrics["val/loss"].item()
            self.seen.append((value, {k: v.clone() for k, v in pl_module.state_dict().items()}))


@pytest.mark.parametrize("accumulated", [1, 2, 3, 4])
@pytest.mark.parametrize("interval", [1, 2, 3])
def test_the_best_is_the_best_that_was_validated(interval, accumulated, tmp_path):
    """Also where several validations see the same weights, for an update takes several batches."""
    validated = Validated()
    module = Net(partial(lit_optim.AdamW, lr=0.1), None, {})
    trainer = Trainer(
        callbacks=[validated, Checkpoint(str(tmp_path), monitor="val/loss"), Resumable()],
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        max_epochs=3, val_check_interval=interval, accumulate_grad_batches=accumulated,
    )  # fmt: skip
    trainer.fit(module, SineData(6, 4))
    best = min(validated.seen, key=lambda one: one[0])[1]
    assert same(torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"], best)


class AtTheEnd(Callback):
    """Strikes once the updates are made, and may have asked to stop before.

    Args:
        how: a signal, or an error.
        hook: in which.
        steps: the updates of the run.
        stops: whether this callback ends it.
    """

    def __init__(self, how, hook, steps, stops):
        self.steps, self.stops = steps, stops

        def called(trainer, *args, **kwargs):
            if trainer.global_step == steps and how == "error":
                raise Broken
            if trainer.global_step == steps and how:
                os.kill(os.getpid(), getattr(signal, how))

        setattr(self, hook, called)

    def on_validation_start(self, trainer, pl_module):
        trainer.should_stop |= self.stops and trainer.global_step == self.steps


ENDS = {
    "epochs": (12, {"max_epochs": 2}),
    "steps of whole epochs": (12, {"max_steps": 12, "val_check_interval": 3}),
    "steps up to a validation": (10, {"max_steps": 10, "val_check_interval": 2}),
    "steps past a validation": (10, {"max_steps": 10, "val_check_interval": 3}),
    "epochs without validation": (12, {"max_epochs": 2, "limit_val_batches": 0}),
    "steps without validation": (10, {"max_steps": 10, "limit_val_batches": 0}),
    "stopped": (8, {"max_epochs": 9, "val_check_interval": 2}),
}
LAST_HOOKS = ("on_validation_end", "on_train_epoch_end", "on_train_end")


@pytest.mark.parametrize(
    ("end", "how", "hook"),
    sample(
        (
            (end, how, hook)
            for end, how, hook in product(ENDS, ("SIGTERM", "SIGINT", "error"), LAST_HOOKS)
            # neither a hook that is not called, nor an error before the newest is saved
            if hook != "on_validation_end" or not (how == "error" or "without" in end)
        ),
        10,
    ),
)
def test_after_the_last_update_the_newest_is_that_of_an_undisturbed_run(end, how, hook, tmp_path):
    steps, run = ENDS[end]
    drawn = draw(0) | {
        "optimizer": "adamw", "wrapper": "none", "scheduler": "constant", "bad": {},
        "batches": 6, "run": {"max_epochs": -1} | run,
    }  # fmt: skip
    whole, parts = (AtTheEnd(how, hook, steps, end == "stopped") for how in (None, how))
    assert fit(tmp_path / "whole", drawn, more=whole)[1]
    assert not fit(tmp_path / "parts", drawn, more=parts)[1]
    one, other = (
        torch.load(tmp_path / part / "last.ckpt", weights_only=True) for part in ("whole", "parts")
    )
    assert one["global_step"] == steps
    for saved in (one, other):  # which name their directories
        saved["callbacks"] = {
            key: state for key, state in saved["callbacks"].items() if "Checkpoint" not in key
        }
    assert [key for key in one if not same(one[key], other[key])] == []
