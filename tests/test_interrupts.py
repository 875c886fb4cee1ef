"""Ctrl-C is code 130 and a line, never a traceback: at any moment, once or twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from lit_optim.callbacks.signals import MAX_WAIT_SECONDS, Signals, forget_sigterm, is_interrupted
from lit_optim.interrupts import interruptible
from tests.conftest import ROOT

RUN = ["data=digits", "model=mlp", "trainer.max_steps=100000", "trainer.val_check_interval=5"]


def interrupt(tmp_path, after, again=(), argv=RUN, program=("train.py",)):
    """Start a program, interrupt it after so many seconds, and again; code and stderr."""
    command = [sys.executable, *(str(ROOT / p) if p == "train.py" else p for p in program), *argv]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    for seconds in (after, *again):
        time.sleep(seconds)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def told(err):
    return [line for line in err.splitlines() if line.startswith("lit-optim:")]


def check(code, err):
    assert code == 130, err
    assert "Traceback" not in err
    assert "KeyboardInterrupt" not in err
    assert len(told(err)) == 1, err


@pytest.mark.parametrize("again", [(), (0.05,)], ids=["once", "twice"])
def test_while_python_is_importing(tmp_path, again):
    check(*interrupt(tmp_path, 0.5, again))


def test_the_line_begins_as_other_messages_of_the_program():
    code = (
        "import os, signal; from lit_optim import cli\n"
        "cli._dispatch = lambda argv: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.main(['report'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "lit-optim: interrupted\n")


@pytest.mark.slow
def test_at_any_moment(tmp_path):
    """Prints how many of the cycles ended as they should."""
    chance, bad = random.Random(int(os.environ.get("SEED", "0"))), []
    cycles = int(os.environ.get("CYCLES", "60"))
    for _ in range(cycles):
        after = chance.choice([chance.uniform(0.1, 1), chance.uniform(1, 8)])
        again = [chance.choice([0.001, 0.02, 0.3, 1.0])] * chance.choice([0, 1, 1, 2])
        argv = chance.choice([RUN, [*RUN, "wrapper=ema", "trainer.accumulate_grad_batches=3"],
                              ["-m", "seed=0,1", "n_jobs=2", *RUN]])  # fmt: skip
        code, err = interrupt(tmp_path, after, again, argv)
        try:
            check(code, err)
        except AssertionError:
            bad.append((after, again, argv, code, err))
            print("\n", *bad[-1], sep="\n")
        for path in tmp_path.glob("runs/*/*/checkpoints/*.ckpt"):
            torch.load(path)
    print(f"{cycles - len(bad)} of {cycles} cycles")
    assert not bad, bad[0]


STOP = """
import os, signal
from lightning.pytorch import Callback


class Stop(Callback):
    def __init__(self, hook, rank):
        setattr(self, hook, lambda trainer, *_, **__: self.stop(trainer.global_rank == rank))

    def stop(self, is_here):
        if is_here:
            os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("hook", "rank"),
    [
        ("on_test_batch_start", 1),
        pytest.param("on_test_batch_start", 0, marks=pytest.mark.slow),
        pytest.param("on_sanity_check_start", 1, marks=pytest.mark.slow),
        pytest.param("on_sanity_check_start", 0, marks=pytest.mark.slow),
    ],
)
def test_sigterm_to_one_of_several_processes_that_do_not_train(tmp_path, train, hook, rank):
    (tmp_path / "stopping.py").write_text(STOP)
    done = train(
        "data=digits", "model=mlp", "trainer=ddp_cpu", "trainer.max_steps=2", "logger=none",
        "allow=[stopping]", "callbacks.stop._target_=stopping.Stop", f"callbacks.stop.hook={hook}",
        f"callbacks.stop.rank={rank}",
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    steps = 2 if "test" in hook else 0
    (line,) = told(done.stderr)
    assert line.startswith(f"lit-optim: terminated at step {steps}")
    assert "Traceback" not in done.stderr


def hooks(module=None):
    """Signals, installed in a trainer that accumulates three batches."""
    signals = Signals()
    trainer = SimpleNamespace(
        callbacks=[signals], world_size=1, accumulates=False, max_steps=-1,
        _signal_connector=SimpleNamespace(received_sigterm=False),
    )  # fmt: skip
    trainer.fit_loop = SimpleNamespace(
        epoch_loop=SimpleNamespace(_should_accumulate=lambda: trainer.accumulates)
    )
    return signals, trainer


@pytest.fixture
def _handlers():
    before = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.usefixtures("_handlers")
def test_an_update_that_has_begun_is_made_first():
    with interruptible():
        signals, trainer = hooks()
        signals.on_train_start(trainer, None)
        signal.raise_signal(signal.SIGINT)  # within a step: nothing is raised there
        assert is_interrupted(trainer)
        trainer.accumulates = True
        signals.on_train_batch_end(trainer, None, None, None, 0)
        signals.on_validation_batch_start(trainer, None, None, 0)
        assert not trainer._signal_connector.received_sigterm
        trainer.accumulates = False
        signals.on_train_batch_end(trainer, None, None, None, 1)
        assert trainer._signal_connector.received_sigterm
        with pytest.raises(KeyboardInterrupt):
            signals.on_validation_batch_start(trainer, None, None, 0)
        with pytest.raises(KeyboardInterrupt):
            signals.on_train_end(trainer, None)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_too_long_an_update_is_not_waited_for(number, monkeypatch):
    signal.signal(signal.SIGTERM, lambda *_: None)
    with interruptible():
        signals, trainer = hooks()
        signals.on_train_start(trainer, None)
        signal.raise_signal(number)
        trainer.accumulates = True
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + MAX_WAIT_SECONDS + 1)
        signals.on_train_batch_end(trainer, None, None, None, 0)
        assert trainer._signal_connector.received_sigterm
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            signals.on_validation_batch_start(trainer, None, None, 0)


@pytest.mark.usefixtures("_handlers")
def test_a_child_of_a_run_ends_by_sigterm_as_any_process():
    """Such as a worker of a pool, which inherits the handlers; this is called in each fork."""
    from lightning.pytorch.trainer.connectors.signal_connector import _HandlersCompose

    def own(number, frame):
        raise AssertionError

    signals, trainer = hooks()
    for handler in (_HandlersCompose([own]), signals._make_sigterm_handler(trainer, own)):
        signal.signal(signal.SIGTERM, handler)
        forget_sigterm()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, own)
    forget_sigterm()
    assert signal.getsignal(signal.SIGTERM) is own


@pytest.mark.usefixtures("_handlers")
def test_a_run_leaves_the_handlers_as_they_were():
    def own(number, frame):
        raise AssertionError

    signal.signal(signal.SIGINT, own)
    with interruptible():
        signals, trainer = hooks()
        signals.on_train_start(trainer, None)
        signals.on_train_end(trainer, None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is own
    signals.on_train_start(trainer, None)  # not within the app: Lightning's own way stays
    assert signal.getsignal(signal.SIGINT) is own
