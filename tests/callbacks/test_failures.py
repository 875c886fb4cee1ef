"""How a run fails, as a user sees it: one line, an exit code, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from lit_optim.callbacks import ranks
from lit_optim.callbacks.ranks import describe_death, is_timeout
from tests.conftest import ROOT

YOURS = """
    import os, shutil, signal, sys, time
    from datetime import timedelta
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
    from torch.utils.data import DataLoader, Dataset


    class Net(LightningModule):
        def __init__(self, how: str = "well"):
            super().__init__()
            self.layer, self.how = torch.nn.Linear(2, 1), how

        def training_step(self, batch, i):
            if self.how == "slow":
                print("at work" if self.global_step == 2 else "", flush=True)
                time.sleep(0.1)
            if self.how == "stuck" and self.global_step == 2:
                print("at work", flush=True)
                time.sleep(600)
            if self.how == "killed" and self.global_step == 2:
                if self.global_rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(600)
            if self.how == "hangs" and self.global_step == 2 and self.global_rank == 1:
                time.sleep(600)
            if self.how == "raises" and self.global_step == 2 and self.global_rank == 1:
                raise RuntimeError("my own mistake")
            if self.how == "memory on rank 1" and self.global_step == 2 and self.global_rank == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if self.how == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            loss = self.layer(batch).square().mean()
            if self.how == "infinite" and self.global_step == 2 and self.global_rank == 1:
                loss = loss * float("nan")
            self.log("train/loss", loss)
            return loss

        def on_save_checkpoint(self, checkpoint):
            if self.how == "slow":
                print("saving", flush=True)
                time.sleep(600)


    StrategyRegistry.register("ddp_impatient", DDPStrategy, timeout=timedelta(seconds=30))


    class Rows(Dataset):
        def __init__(self, how):
            self.how = how

        def __len__(self):
            return 64

        def __getitem__(self, i):
            if i == 20 and self.how == "corrupt":
                raise ValueError("row 20 is corrupt")
            if i == 20 and self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return torch.ones(2)


    class Data(LightningDataModule):
        def __init__(self, how: str = "well", workers: int = 0, batch_size: int = 4):
            super().__init__()
            self.how, self.workers, self.batch_size = how, workers, batch_size

        def train_dataloader(self):
            return DataLoader(Rows(self.how), self.batch_size, num_workers=self.workers)


    class Cleaner(Callback):
        def on_train_batch_end(self, trainer, module, *others):
            # TensorBoard writes in a thread, and may put a file back in between
            while trainer.global_step == 4 and os.path.exists(trainer.default_root_dir):
                shutil.rmtree(trainer.default_root_dir, ignore_errors=True)
"""
LINE = [
    "allow=[user_code]", "model=custom", "model._target_=user_code.Net", "data=custom",
    "data._target_=user_code.Data", "test=false", "preset=none", "trainer.max_steps=64",
    "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _yours(tmp_path):
    (tmp_path / "user_code.py").write_text(textwrap.dedent(YOURS))


def complaints(done):
    return [line for line in done.stderr.splitlines() if line.startswith("lit-optim: ")]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["model.how=memory"],
            "lit-optim: out of memory at step 0 with batches of 4: take a smaller data.batch_size",
        ),
        (
            ["data.how=killed", "data.workers=1"],
            "lit-optim: a worker of the data loader ",
        ),
    ],
)
def test_what_a_line_tells_better_than_a_traceback(train, argv, line):
    done = train(*LINE, "logger=none", *argv)
    assert done.returncode == 1
    [message] = complaints(done)
    assert message.startswith(line)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", [ConnectionResetError, ConnectionRefusedError, EOFError, OSError])
def test_a_worker_that_dies_while_it_hands_over_a_batch_is_a_line_too(kind):
    """A moment that a process would hit now and then."""
    from lit_optim.lightning.failures import explain_failure

    class Gone:
        def detach(self):
            raise kind("the worker is gone")

    class Here:
        global_step = 3

    with pytest.raises(kind) as raised:
        torch.multiprocessing.reductions.rebuild_storage_fd(torch.UntypedStorage, Gone(), 4)
    assert explain_failure(raised.value, Here()).startswith(
        "a worker of the data loader exited unexpectedly, at step 3"
    )
    Here.strategy = Here()
    Here.strategy.launcher = None
    with pytest.raises(kind) as raised:
        Gone().detach()
    assert explain_failure(raised.value, Here()) is None


def test_your_own_failure_keeps_its_traceback_and_tells_the_batch(train):
    done = train(*LINE, "logger=none", "data.how=corrupt")
    assert done.returncode == 1
    assert "ValueError: row 20 is corrupt" in done.stderr
    assert "failed in epoch 0, at or after its batch 4" in done.stdout


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("killed", "lit-optim: rank 1 was killed by SIGKILL; stopping all ranks"),
        ("raises", "lit-optim: rank 1 ended with code 1, see above; stopping all ranks"),
        (
            "infinite",
            "lit-optim: the loss is not finite at step 3",
        ),  # of rank 1, which all are told
    ],
)
def test_a_dead_rank_is_named_and_ends_the_other_ranks(train, how, line):
    done = train(*LINE, "trainer=ddp_cpu", "logger=none", f"model.how={how}", timeout=120)
    assert done.returncode == 1
    assert complaints(done) == [line]
    assert ("my own mistake" in done.stderr) == (how == "raises")
    assert "gloo" not in done.stderr
    assert done.stderr.count("Traceback") == (how == "raises")


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("memory on rank 1", ["rank 1: out of memory at step 2", "rank 1 ended with code 1, see"]),
        ("memory", ["out of memory at step 0"]),  # on both, and told by rank 0
    ],
)
def test_what_a_rank_alone_fails_of_is_told(train, how, where):
    done = train(*LINE, "trainer=ddp_cpu", "logger=none", f"model.how='{how}'", timeout=120)
    assert done.returncode == 1
    told = [line.removeprefix("lit-optim: ") for line in complaints(done)]
    assert len(told) == len(where)
    assert all(line.startswith(start) for line, start in zip(told, where, strict=True))
    assert "Traceback" not in done.stderr


class Clock:
    """Seconds that pass only while somebody sleeps."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(("dies_after", "is_named"), [(0.0, True), (20.0, True), (1e9, False)])
def test_a_rank_that_takes_long_to_die_is_awaited(monkeypatch, dies_after, is_named):
    """On a busy machine it still prints its traceback when the others notice."""
    clock = Clock()
    monkeypatch.setattr(ranks, "time", clock)
    monkeypatch.setattr(ranks, "_is_told", threading.Event())
    dying = SimpleNamespace(poll=lambda: 1 if clock.now >= dies_after else None)
    launcher = SimpleNamespace(procs=[dying])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
    said = describe_death(trainer, RuntimeError("Connection closed by peer [127.0.0.1]:1"))
    line = "rank 1 ended with code 1, see above; stopping all ranks"
    assert said == (line if is_named else None)
    assert ranks._is_told.is_set() == is_named
    assert describe_death(trainer, RuntimeError("my own")) is None


@pytest.mark.parametrize("is_told", [False, True])
def test_a_death_is_told_by_one_of_those_who_notice(monkeypatch, capsys, is_told):
    clock, killed = Clock(), []
    monkeypatch.setattr(ranks, "time", clock)
    monkeypatch.setattr(ranks, "_is_told", threading.Event())
    monkeypatch.setattr(ranks.os, "_exit", killed.append)
    dead = SimpleNamespace(poll=lambda: 1)
    hanging = SimpleNamespace(poll=lambda: None, kill=lambda: killed.append("2"))
    if is_told:
        ranks._is_told.set()
    ranks._watch([dead, hanging])
    line = "lit-optim: rank 1 ended with code 1, see above; stopping all ranks\n"
    assert capsys.readouterr().err == ("" if is_told else line)
    assert killed == ["2", 1]


def test_giving_up_is_gloos_not_anybodys():
    message = "[unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation to complete"
    assert is_timeout(RuntimeError(message))
    assert not is_timeout(RuntimeError("Timed out waiting for the licence server"))


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_after_the_timeout(train):
    argv = ["trainer=ddp_cpu", "trainer.strategy=ddp_impatient", "logger=none", "model.how=hangs"]
    done = train(*LINE, *argv, timeout=200)
    assert done.returncode == 1
    line = "lit-optim: rank 1 hangs or has diverged from rank 0, at step 2: all are ended"
    assert complaints(done) == [line]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["stuck", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_end_of_rank_0_ends_the_other_ranks(tmp_path, how):
    process = started(tmp_path, "trainer=ddp_cpu", f"model.how={how}")
    wait_for(process, "at work")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert children
    process.kill()
    output, _ = process.communicate(timeout=30)  # they have its pipe as long as they live
    assert "lit-optim: rank 0 is gone; stopping all ranks" in output
    assert "Traceback" not in output


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("trainer", "number", "code", "how"),
    [
        pytest.param("cpu", signal.SIGINT, 130, "interrupted", id="Ctrl-C"),
        pytest.param("ddp_cpu", signal.SIGINT, 130, "interrupted", id="Ctrl-C to ranks"),
        pytest.param("ddp_cpu", signal.SIGHUP, 129, "terminated", id="SIGHUP to ranks"),
    ],
)
def test_a_signal_leaves_a_checkpoint(tmp_path, trainer, number, code, how, train, begin):
    process = begin("data=digits", "trainer.max_steps=1000000", f"trainer={trainer}")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/best.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, number)  # as a terminal does
    if number == signal.SIGHUP:  # and after it the shell
        os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    (line,) = [line for line in err.splitlines() if line.startswith("lit-optim:")]
    path = tmp_path / line.rpartition("checkpoint: ")[2]
    step = torch.load(path)["global_step"]
    assert line == f"lit-optim: {how} at step {step}; checkpoint: {path}"
    assert err.splitlines()[-1] == "to resume it, add resume=auto to the same command"
    if number == signal.SIGHUP:
        return
    tested = train("data=digits", "train=false", f"ckpt={path}")
    assert tested.returncode == 0, tested.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_ends_it_at_once(tmp_path, number, code):
    process = started(tmp_path, "model.how=slow")
    wait_for(process, "at work")
    process.send_signal(number)
    wait_for(process, "saving")
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert output.splitlines()[-1] == "lit-optim: ended at once"


@pytest.mark.parametrize("logger", ["tensorboard", "csv"])
def test_a_log_that_cannot_be_written_ends_nothing(train, tmp_path, logger):
    done = train(
        *LINE, f"logger={logger}", "hydra.run.dir=here", "trainer.log_every_n_steps=1",
        "callbacks.cleaner._target_=user_code.Cleaner",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message = [line for line in (done.stdout + done.stderr).splitlines() if "stops logging" in line]
    assert len(message) == 1
    assert message[0].endswith("stops logging: No such file or directory; training continues")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "here" / "checkpoints" / "last.ckpt").exists()


def started(tmp_path, *argv):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *LINE, "logger=none", *argv],
        cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(process, word):
    alarm = threading.Timer(120, process.kill)
    alarm.start()
    for line in process.stdout:
        if line.startswith(word):
            alarm.cancel()
            return
    raise AssertionError(f"it has ended without {word!r}")
