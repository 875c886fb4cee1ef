"""transformers' Trainer with our optimizers and schedules: by the mixin, and by `optimizers=`."""

from __future__ import annotations

import copy
import logging
import socket
from functools import partial

import pytest
import torch

import lit_optim
from lit_optim import hf, schedules
from tests.clients.conftest import import_client
from tests.clients.transformers_runs import (
    BATCH,
    COSINE,
    STEPS,
    Trainer,
    cosine,
    gpt2,
    make_trainer,
    train,
)

transformers = import_client("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")


def same(one, other, **tolerance):
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    for (name, p), q in pairs:
        torch.testing.assert_close(p, q, msg=name, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"learning_rate": 0.01, "weight_decay": 0.3, "warmup_steps": 2},
        {
            "learning_rate": 0.01,
            "adam_beta2": 0.9,
            "adam_epsilon": 1e-3,
            "lr_scheduler_type": "cosine",
        },
        {"learning_rate": 0.01, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    ],
)
def test_adamw_trains_as_that_of_the_trainer(given, tmp_path):
    """Everything from TrainingArguments: groups, weight decay, lr, schedule."""
    theirs, their_lrs = train(
        tmp_path, kind=transformers.Trainer, model=gpt2().double(), given=given
    )
    ours, lrs = train(tmp_path, model=gpt2().double(), given=given, optimizer="adamw")
    assert type(ours.optimizer.optimizer) is lit_optim.AdamW
    assert lrs == their_lrs
    same(ours.model, theirs.model, rtol=1e-6, atol=1e-9)
    decays = {group["weight_decay"] for group in ours.optimizer.param_groups}
    assert decays == {given.get("weight_decay", 0.0), 0.0}


def test_muon_and_a_schedule(tmp_path, caplog):
    before = make_trainer(tmp_path).evaluate()["eval_loss"]
    with caplog.at_level(logging.WARNING, "lit_optim"):
        trainer, lrs = train(
            tmp_path,
            given={"learning_rate": 0.05, "logging_strategy": "steps", "logging_steps": 1},
            optimizer=lit_optim.Muon,
            schedule=COSINE(),
        )
    assert "learning_rate" not in caplog.text
    peaks = {g["role"]: g["initial_lr"] for g in trainer.optimizer.param_groups}
    assert peaks["hidden"] == 0.05
    peak = trainer.optimizer.param_groups[0]["initial_lr"]
    assert lrs == pytest.approx([peak * cosine(t, 2) for t in range(STEPS)], rel=1e-9, abs=1e-12)
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == lrs
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0, abs=1e-12)
    roles = {group["role"] for group in trainer.optimizer.param_groups}
    assert {"hidden", "embedding", "norm"} <= roles
    hidden = trainer.model.transformer.h[0].attn.c_attn.weight  # a Conv1D
    assert "momentum_buffer" in trainer.optimizer.optimizer.state[hidden]
    assert trainer.evaluate()["eval_loss"] < before


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_metric_of_the_best_model(mode, tmp_path):
    """One that rises and then falls, given once per evaluation, as transformers' own."""
    given = {
        "learning_rate": 0.1, "eval_strategy": "steps", "eval_steps": 1,
        "metric_for_best_model": "accuracy", "greater_is_better": mode == "max",
    }  # fmt: skip
    values = [0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.5, 0.6]
    settings = {"factor": 0.5, "patience": 0}

    def follow(kind, given, **chosen):
        later = iter(values)
        chosen["compute_metrics"] = lambda prediction: {"accuracy": next(later)}
        return train(tmp_path, kind=kind, given=given, **chosen)[1]

    named = {"lr_scheduler_type": "reduce_lr_on_plateau", "optim": "sgd"}
    named["lr_scheduler_kwargs"] = settings | {"mode": mode}
    expected = follow(transformers.Trainer, given | named)
    plateau = schedules.plateau(**settings)
    assert follow(Trainer, given, optimizer="sgd", schedule=plateau) == expected
    assert len(set(expected)) > 2


def test_frozen_parameters_are_left_out(tmp_path):
    model = gpt2()
    model.transformer.wte.weight.requires_grad_(False)
    made = make_trainer(tmp_path, model=model, optimizer="muon").create_optimizer()
    params = {p for group in made.param_groups for p in group["params"]}
    assert params == {p for p in model.parameters() if p.requires_grad}


def test_a_schedule_by_name(tmp_path):
    """With warmup_steps and lr_scheduler_kwargs; over epochs, and counting updates."""
    given = {
        "learning_rate": 0.1,
        "warmup_steps": 2,
        "lr_scheduler_kwargs": {"min_lr_ratio": 0.5},
        "gradient_accumulation_steps": 2,
        "max_steps": -1,
        "num_train_epochs": 2,
    }
    trainer, lrs = train(tmp_path, given=given, optimizer="sgd", schedule="cosine_warmup")
    assert trainer.state.global_step == STEPS
    expected = [0.1 * (min(1, (t + 1) / 2) if t < 2 else 0.5 + cosine(t, 2) / 2) for t in range(8)]
    assert lrs == pytest.approx(expected, rel=1e-9)
    _, lrs = train(
        tmp_path,
        given=given | {"warmup_steps": 0, "lr_scheduler_kwargs": None},
        optimizer="sgd",
        schedule=schedules.cosine_warmup("1 epoch"),
    )
    assert lrs == pytest.approx([0.1 * cosine(t, STEPS / 2) for t in range(STEPS)], abs=1e-12)


def test_a_schedule_of_a_metric(tmp_path):
    """As transformers' own, after evaluations that are never good enough."""
    settings = {"factor": 0.5, "patience": 1, "threshold": 1e9}
    given = {"learning_rate": 0.1, "eval_strategy": "steps", "eval_steps": 1}
    named = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": settings}
    theirs = {"kind": transformers.Trainer, "given": given | named | {"optim": "sgd"}}
    _, expected = train(tmp_path, **theirs)
    torchs = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, **settings)
    for plateau in (schedules.plateau(**settings), torchs):
        _, lrs = train(tmp_path, given=given, optimizer="sgd", schedule=plateau)
        assert lrs == expected
    assert len(set(lrs)) == 4


AVERAGING = {
    "muon": partial(lit_optim.Muon, lr=0.02),
    "schedule-free": partial(lit_optim.ScheduleFreeAdamW, lr=0.02),
    "ema": lambda groups: lit_optim.Ema(lit_optim.AdamW(groups, lr=0.02), decay=0.8, warmup=False),
}


@pytest.mark.parametrize("name", AVERAGING)
def test_resuming_continues_the_same_run(name, tmp_path):
    """Evaluated before it is saved, so that averages show in the saved weights."""
    given = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    chosen = {"optimizer": AVERAGING[name], "schedule": COSINE(), "given": given}
    whole, lrs = train(tmp_path / "whole", **chosen)
    resumed, later = train(tmp_path / "new", resume=f"{tmp_path}/whole/checkpoint-4", **chosen)
    assert later == lrs[4:]
    same(whole.model, resumed.model)


def test_averaged_weights(tmp_path):
    """Evaluated, saved, and kept after training; the best ones stay where they are loaded."""
    decay, averages = 0.8, []

    class Averages(transformers.TrainerCallback):
        """The average after each update, computed here."""

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            averages.append([p.detach().clone() for p in model.parameters()])

        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            pairs = zip(averages[-1], model.parameters(), strict=True)
            averages.append([decay * e + (1 - decay) * p.detach() for e, p in pairs])

    given = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
        "load_best_model_at_end": True, "max_steps": STEPS - 1,
    }  # fmt: skip
    trainer, _ = train(tmp_path, given=given, optimizer=AVERAGING["ema"], callbacks=[Averages()])
    for step in (2, 4, 6):
        saved = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / f"checkpoint-{step}")
        for p, e in zip(saved.parameters(), averages[step], strict=True):
            torch.testing.assert_close(p, e, rtol=1e-5, atol=1e-6)
    logged = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    best = min(logged, key=logged.get)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(logged[best], rel=1e-5)
    for p, e in zip(trainer.model.parameters(), averages[best], strict=True):
        torch.testing.assert_close(p, e, rtol=1e-5, atol=1e-6)


def test_averaged_weights_after_training(tmp_path):
    trainer, _ = train(tmp_path, optimizer=AVERAGING["ema"])
    shown = copy.deepcopy(trainer.model)
    trainer.evaluate()
    same(trainer.model, shown)
    trainer.optimizer.train()
    assert not torch.equal(trainer.model.lm_head.weight, shown.lm_head.weight)


def test_the_ordinary_trainer(tmp_path):
    """`optimizers=` with what is made outside, here for Muon and a schedule by name."""
    model = gpt2()
    optimizer = lit_optim.Muon(model, lr=0.02)
    scheduler = lit_optim.schedule(optimizer, COSINE(), steps=STEPS)
    _, lrs = train(
        tmp_path, kind=transformers.Trainer, model=model, optimizers=(optimizer, scheduler)
    )
    peak = optimizer.param_groups[0]["initial_lr"]
    assert lrs == pytest.approx([peak * cosine(t, 2) for t in range(STEPS)], rel=1e-9, abs=1e-12)


def test_without_transformers(monkeypatch):
    monkeypatch.setattr("lit_optim.missing.find_spec", lambda name: None)
    monkeypatch.delitem(vars(hf), "Trainer", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"lit_optim\.hf\.Trainer needs transformers"):
        hf.Trainer  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean Trainer"):
        hf.Trainr  # noqa: B018


def _worker(rank, port, path):
    """One of two processes; the first saves what it has."""
    import os

    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in here.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    trainer, lrs = train(
        path,
        given={"ddp_backend": "gloo", "max_steps": STEPS // 2},
        optimizer=partial(lit_optim.Muon, lr=0.02),
        schedule=COSINE(),
    )
    torch.save((trainer.model.state_dict(), lrs), f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    """The schedule counts updates; the run is that of one process with twice the batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # not forks of this process: another test may have left threads, for which they would wait
    torch.multiprocessing.start_processes(
        _worker, (port, str(tmp_path)), nprocs=2, start_method="forkserver"
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    one, lrs = train(
        tmp_path,
        given={"per_device_train_batch_size": 2 * BATCH, "max_steps": STEPS // 2},
        optimizer=partial(lit_optim.Muon, lr=0.02),
        schedule=COSINE(),
    )
    assert first[1] == second[1] == lrs
    assert lrs[-1] == pytest.approx(0, abs=1e-12)
    for name, p in one.model.state_dict().items():
        assert torch.equal(first[0][name], second[0][name])
        torch.testing.assert_close(first[0][name], p, rtol=1e-3, atol=1e-4, msg=name)
