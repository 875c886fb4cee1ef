"""Other systems than the one at hand: Windows, terminals without UTF-8, devices without float64."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from lit_optim import app, cli, system
from lit_optim.callbacks import resumable as resume
from lit_optim.command_line.prepare import prepare_command_line
from lit_optim.commands import load_commands
from lit_optim.config.composing import compose_config
from lit_optim.errors import UsageError
from lit_optim.reports import installation as doctor
from lit_optim.streams import Output, allow_any_text, can_show
from lit_optim.system import accept_hangups, signal_name, termination_code

PACKAGE = Path(__file__).parent.parent / "lit_optim"
FILES = sorted(PACKAGE.rglob("*.py"))
#: What Python has on POSIX only, by the module that has it; None: the whole module.
POSIX_ONLY = {
    "os": {
        *("fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid"),
        *("getpgrp", "getsid", "getuid", "killpg", "mkfifo", "nice", "openpty", "register_at_fork"),
        *("sched_getaffinity", "sched_setaffinity", "setpgid", "setsid", "statvfs", "sysconf"),
        *("uname", "wait", "wait3", "wait4", "chown", "posix_spawn", "sync", "fdatasync"),
        *("O_DIRECTORY", "O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_SYNC", "O_DSYNC"),
    },
    "signal": {
        *("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE"),
        *("SIGCONT", "SIGSTOP", "SIGTSTP", "SIGXCPU", "alarm", "setitimer", "pthread_kill"),
        *("pthread_sigmask", "siginterrupt", "sigwait", "pause"),
    },
    "time": {"tzset", "clock_gettime", "pthread_getcpuclockid"},
}
#: What does something else on Windows: signal 0 is Ctrl-C there, and no open file is replaced.
DIFFERENT = {"os": {"kill", "replace"}}
POSIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty", "syslog")


def strays(path):
    """Where a module uses what only POSIX has."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_ONLY.get(node.value.id, set()) | DIFFERENT.get(
                node.value.id, set()
            ):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in POSIX_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if node.module in POSIX_MODULES:
                yield node.module
            names = {alias.name for alias in node.names}
            yield from names & POSIX_ONLY.get(node.module or "", set())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_one_module_calls_what_only_posix_has(path):
    assert path.name == "system.py" or not list(strays(path))


def test_every_module_is_imported_without_posix(tmp_path):
    """In a process of its own: what is taken away here would be missing everywhere."""
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
    ]
    code = f"""
    import importlib, os, signal, subprocess, sys
    import hydra, lightning.pytorch, rich.progress, torch  # theirs to be right about Windows
    for module, missing in {POSIX_ONLY!r}.items():
        for name in missing:
            if hasattr(sys.modules[module], name):
                delattr(sys.modules[module], name)
    for name in {POSIX_MODULES!r}:
        sys.modules[name] = None
    for name in {names!r}:
        importlib.import_module(name)
    from pathlib import Path
    from lit_optim.system import OWN_GROUP, accept_interrupts, interrupt_group, kill_group
    from lit_optim.system import accept_hangups, lock_file, sync_directory
    accept_interrupts()
    accept_hangups()
    place, os.name = Path("nowhere"), "nt"
    sync_directory(place)
    os.name = "posix"
    with open("lock", "w") as file:
        assert lock_file(file)
    for end in (interrupt_group, kill_group):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        end(child)
        assert child.wait(10)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_text_files_are_utf_8_whatever_the_system(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", None)
        given = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        keywords = {keyword.arg for keyword in node.keywords}
        is_method = isinstance(node.func, ast.Attribute)  # else it is that of lit_optim.untrusted
        is_text = (is_method and name in ("read_text", "write_text")) or (
            name in ("open", "fdopen")
            and owner not in ("os", "webbrowser", "Image")
            and not any("b" in str(mode) for mode in given)
        )
        if is_text and path.name != "untrusted.py":
            assert "encoding" in keywords or "utf-8" in given, f"{path}:{node.lineno}"


def test_an_unknown_signal_has_a_name_too():
    assert signal_name(9) == "SIGKILL"
    assert signal_name(999) == "signal 999"


def test_a_closed_terminal_is_sigterm_unless_it_is_ignored(monkeypatch):
    got, kinds = [], (signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in kinds}
    monkeypatch.setattr(system, "_hangups", [])
    try:
        signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
        accept_hangups()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        accept_hangups()
        assert termination_code() == 143
        for _ in range(2):  # as from the system and from the shell
            signal.raise_signal(signal.SIGHUP)
        assert got == [signal.SIGTERM]
        assert termination_code() == 129
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture(
    params=[("ascii", "surrogateescape"), ("cp1252", "strict"), ("latin-1", "strict")],
    ids=lambda param: param[0],
)
def narrow(request, monkeypatch):
    """Call it to have both streams in an encoding that lacks bars, box lines and Greek letters."""

    def start():
        streams = {
            name: io.TextIOWrapper(io.BytesIO(), *request.param, write_through=True)
            for name in ("stdout", "stderr")
        }
        for name, stream in streams.items():  # here: pytest puts its own in place before each test
            monkeypatch.setattr(sys, name, stream)
        return lambda: "".join(
            stream.buffer.getvalue().decode(stream.encoding) for stream in streams.values()
        )

    return start


def every_command():
    return [command.name for command in load_commands() if command.section is not None]


ARGUMENTS = {
    "plot": ["scheduler=wsd,one_cycle", "trainer.max_steps=50"],
    "explain": ["optimizer=muon", "trainer.max_steps=50"],
    "lr-range": ["--steps", "20", "model=linear"],
    "board": ["--help"],  # it would serve for ever
    "train": ["trainer.max_steps=2", "trainer.limit_val_batches=1", "logger=none", "test=false"],
    "results": ["nowhere→"],
    "rerun": ["nowhere→"],
}


@pytest.mark.parametrize("command", every_command())
def test_every_command_can_write_in_any_encoding(command, narrow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = narrow()
    with contextlib.suppress(SystemExit):  # the doctor finds what is bad here
        cli.main([command, *ARGUMENTS.get(command, [])])
    assert written().strip()


@pytest.mark.parametrize("name", ["wsd", "muon"])
def test_an_entry_in_full_can_be_written_in_any_encoding(name, narrow):
    written = narrow()
    cli.main(["schedules" if name == "wsd" else "optimizers", name])
    assert name in written()


def test_bars_stay_bars_without_unicode(narrow):
    written = narrow()
    cli.main(["plot", "scheduler=linear", "trainer.max_steps=10"])
    bars = written().splitlines()[0].removeprefix("linear").strip()
    assert bars[0] == "#"
    assert bars[-1] == "_"
    assert set(bars) <= set("_.-:=+*#")


def test_a_mistake_is_told_in_any_encoding(narrow, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "optimizer='α→β'"])
    written = narrow()
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 2
    assert "unknown optimizer" in written()


def test_a_run_is_told_in_any_encoding(narrow, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = "optimizer=muon trainer.max_steps=2 trainer.limit_val_batches=1 logger=none test=false"
    monkeypatch.setattr(sys, "argv", ["train.py", *argv.split()])
    written = narrow()
    app.main()
    assert "val/loss" in written()
    assert "Muon" in written()


def test_what_can_be_shown_is_known():
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert not can_show("█", narrow)
    assert can_show("#", narrow)
    assert can_show("█", io.StringIO())


def test_a_choice_of_the_user_for_errors_is_left_alone(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    allow_any_text()
    assert stream.errors == "backslashreplace"


def test_the_chance_of_mps_is_kept(monkeypatch):
    states = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([1, 2], dtype=torch.uint8))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: states.append(state.tolist()))
    resume._restore_random_states(resume._random_states())
    assert states == [[1, 2]]


def test_double_precision_is_refused_where_there_is_none(monkeypatch, tmp_path):
    from lit_optim.runs import build

    monkeypatch.setattr(build, "DEVICES_WITHOUT_FLOAT64", ("cpu",))
    cfg = compose_config(prepare_command_line(["trainer.precision=64-true"]).argv)
    with pytest.raises(UsageError, match=r"trainer\.precision=64-true: cpu has no float64"):
        build.build_run(cfg, tmp_path)


@pytest.mark.parametrize("kind", ["cuda", "mps", "none"])
def test_the_doctor_says_how_to_choose_a_gpu(kind, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda k=0: "a card")
    monkeypatch.setattr(doctor, "_products", lambda: [])  # multiplies on the card
    [message] = [found.message for found in doctor.devices() if found.name == "gpu"]
    assert ("trainer=gpu" in message) == (kind != "none")


def test_os_has_what_was_taken_away():
    """The lists above name what there is."""
    if os.name == "posix":
        assert {"killpg", "register_at_fork"} <= set(dir(os))


class Failing(io.RawIOBase):
    """A file that takes nothing."""

    def __init__(self, number):
        self.number = number

    def writable(self):
        return True

    def write(self, data):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EPIPE])
@pytest.mark.parametrize("size", [1, 100])
def test_what_cannot_be_printed_ends_nothing(number, size):
    out = Output(io.BufferedWriter(Failing(number), buffer_size=16), line_buffering=True)
    print("x" * size, file=out, flush=True)
    with contextlib.suppress(OSError):
        out.detach()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS])
def test_a_line_says_that_hydra_could_not_write_its_files(number, capsys):
    def save(cfg, filename, output_dir):
        raise OSError(number, os.strerror(number))

    with pytest.raises(SystemExit) as end:
        app._explain(save)({}, "config.yaml", "here/.hydra")
    assert end.value.code == 1
    path = Path("here", ".hydra", "config.yaml")
    told = f"lit-optim: {path} cannot be written: {os.strerror(number)}\n"
    assert capsys.readouterr().err == told
