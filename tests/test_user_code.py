"""train.py with a module and data of your own: what it takes of them, and what it says."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.user_code import CUSTOM


@pytest.mark.usefixtures("user_code")
def test_your_own_module_and_data(train, tmp_path):
    done = train(
        *CUSTOM, "model.width=5", "data.size=24", "optimizer=sgd", "optimizer.momentum=0.9"
    )
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    loaded = torch.load(path)  # default: weights_only
    assert loaded["state_dict"]["net.0.weight"].shape == (5, 3)
    assert loaded["hyper_parameters"] == {"width": 5, "crash": "no"}
    (optimizer,) = loaded["optimizer_states"]
    assert [group["name"] for group in optimizer["param_groups"]] == ["decay", "no_decay"]
    assert optimizer["param_groups"][0]["momentum"] == 0.9


@pytest.mark.usefixtures("user_code")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("model.width=5", "allow=[]"),
            "model._target_=user_code.Module is not allowed; if user_code is your",
        ),
        (
            ("model.with=5",),
            "unknown key model.with; did you mean model.width? (Module takes width, crash)",
        ),
        ((), "model.width must be given: a whole number"),
        (("model.width=wide",), "model.width must be a whole number, got 'wide'"),
        (
            ("model.width=5", "model._target_=user_code.Modul"),
            "user_code has no Modul; did you mean Module",
        ),
        (("model.width=5", "model._target_=user_code.Data"), "unknown key model.width"),
        (
            ("model._target_=user_code.Data",),
            "model._target_=user_code.Data is not a LightningModule",
        ),
        (
            (
                "model._target_=pytorch_lightning.LightningModule",
                "allow=[user_code,pytorch_lightning]",
            ),
            "is not a LightningModule of lightning.pytorch, but a class of pytorch_lightning:",
        ),
        (
            ("model.width=5", "model._target_=user_code.Owner"),
            "has a configure_optimizers of its own",
        ),
    ],
)
def test_mistakes_with_your_own_module(tmp_path, monkeypatch, refusal, argv, message):
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert message in refusal([*CUSTOM, *argv])
    finally:
        sys.modules.pop("user_code", None)


@pytest.mark.usefixtures("user_code")
def test_a_metric_that_nobody_logs(train):
    done = train(*CUSTOM, "model.width=5", "monitor=val/los")
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("lit-optim: ")]
    assert "monitor=val/los is not logged; did you mean val/loss?" in line
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("user_code")
def test_your_own_exceptions_keep_their_traceback(train):
    done = train(*CUSTOM, "model.width=5", "model.crash=raise")
    assert done.returncode == 1
    assert "RuntimeError: my own mistake" in done.stderr
    assert "user_code.py" in done.stderr


@pytest.mark.usefixtures("user_code")
def test_your_own_exit_code_is_kept(train):
    assert train(*CUSTOM, "model.width=5", "model.crash=exit").returncode == 3
