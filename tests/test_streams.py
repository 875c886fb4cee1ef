"""What is printed where nobody reads it: closed from the beginning, or left by the reader."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lit_optim.streams import open_missing_streams
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
