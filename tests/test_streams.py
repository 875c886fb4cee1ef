"""What is printed where nobody reads it: closed from the beginning, or left by the reader."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from lit_optim import app, cli
from lit_optim.printing import Console
from lit_optim.streams import open_missing_streams, print_without_fail, sign
from tests.conftest import ROOT

#: A command that prints; what is opened then is not taken for a stream, also not by a child.
CLOSED = """
import subprocess, sys
from lit_optim import entry
sys.argv = ["lit-optim", "optimizers"]
entry.command()
with open("first", "w") as file:
    assert file.fileno() > 2, file.fileno()
child = "import sys; sys.exit(None in (sys.stdin, sys.stdout, sys.stderr))"
sys.exit(subprocess.run([sys.executable, "-S", "-c", child]).returncode)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of POSIX")
@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-"])
def test_a_closed_stream_is_the_null_device(closed, tmp_path):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CLOSED]
    env = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("adamw" in done.stdout) == (closed == "2>&-")


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_program_without_a_console_has_streams(name, monkeypatch):
    """As of pythonw on Windows."""
    kept = getattr(sys, name)
    for one in (name, f"__{name}__"):
        monkeypatch.setattr(sys, one, None)
    open_missing_streams()
    made = getattr(sys, name)
    assert made is getattr(sys, f"__{name}__")
    assert made.fileno() == ("stdin", "stdout", "stderr").index(name)
    assert made.readable() if name == "stdin" else made.writable()
    monkeypatch.undo()
    assert getattr(sys, name) is kept


@contextmanager
def unread(monkeypatch):
    """Within it stdout is a pipe whose reader has gone; pytest sets its own before each test."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        yield
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, write)  # else what is left could not be written
        os.close(null)


def test_a_console_leaves_it_to_the_stream_that_nobody_reads(monkeypatch):
    with unread(monkeypatch):
        with pytest.raises(BrokenPipeError):
            Console().print("lost")
        print_without_fail("stdout")
        Console().print("lost")


@pytest.mark.parametrize("command", ["optimizers", "doctor"])
def test_a_command_stops_quietly_when_nobody_reads_on(command, monkeypatch, capsys):
    with unread(monkeypatch):
        cli.main([command])
    assert capsys.readouterr().err == ""


def test_a_run_goes_on_when_nobody_reads_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = (
        "trainer.max_steps=2 trainer.limit_val_batches=1 logger=none test=false hydra.run.dir=run"
    )
    monkeypatch.setattr(sys, "argv", ["train.py", *argv.split()])
    with unread(monkeypatch):
        app.main()
    assert "Traceback" not in capsys.readouterr().err
    assert json.loads(Path("run", "job.json").read_text("utf-8"))["status"] == "completed"


def literals(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_message_is_signed_in_one_place():
    signed = re.compile(r"^\n?lit[-_]optim: ")
    files = [*(ROOT / "lit_optim").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")]
    assert [path for path in files if any(map(signed.match, literals(path)))] == []
    assert sign("no such file") == "lit-optim: no such file"


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        (["train.py"], ["optimizer=adamv"]),
        (["-m", "lit_optim"], ["optimizer=adamv"]),
        (["-m", "lit_optim", "train"], ["optimizer=adamv"]),
        (["-m", "lit_optim", "plot"], ["optimizer=adamv"]),
    ],
)
def test_every_program_signs_with_the_same_name(tmp_path, program, argv):
    command = [sys.executable, *(str(ROOT / p) if p == "train.py" else p for p in program), *argv]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("lit-optim: unknown ")
