"""Runs a program in a fork, and strikes it right after one of its calls: a kill, a full disk.

The calls that are counted are those that change files, and the backward passes, which stand for the
batches. Each writes a letter into a file, so that a whole family of processes has one count.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import io
import logging
import os
import resource
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch

from lit_optim.sweeps import forked_jobs
from lit_optim.sweeps.job_server import run_to_exit, serve_jobs

#: The calls that are counted, by their letter; `o` opens a file to write, `w` is a part of a
#: checkpoint that has reached the file, and `b` a backward pass.
CALLS = {"r": ("replace", "rename"), "f": ("fsync",), "u": ("unlink", "remove"), "m": ("mkdir",)}
#: What fills up a disk.
FILLER = "filler"
BLOCK = 1 << 16
#: The largest that is ever filled up, in bytes.
LARGEST_DISK = 1 << 30
#: Capabilities by which root may write where nobody may.
OVERRIDE = 1 << 1 | 1 << 2
CAPABILITY_VERSION = 0x20080522
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


def watch_calls(count: int, place: int, strike: Callable[[], object] | None) -> None:
    """Count the calls of this process, and of those that it forks.

    Args:
        count: an open file, to which each call appends its letter.
        place: the number of calls after which to strike, once.
        strike: what then happens, within the process that made the call.
    """
    left = [] if strike is None else [strike]

    def note(letter: str) -> None:
        os.write(count, letter.encode())
        if left and os.fstat(count).st_size >= place:
            left.pop()()

    def counted(call: Any, letter: str) -> Any:
        def made(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            note(letter)
            return result

        return made

    for letter, names in CALLS.items():
        for name in names:
            setattr(os, name, counted(getattr(os, name), letter))
    torch.Tensor.backward = counted(torch.Tensor.backward, "b")  # type: ignore[method-assign]
    opened, saved = open, torch.save

    def open_counted(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        result = opened(file, mode, *args, **kwargs)
        if not mode.startswith("r"):
            note("o")
        return result

    def save_counted(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        saved(content, _Parts(file, note) if hasattr(file, "write") else file, *args, **kwargs)

    for module, name, call in (
        (builtins, "open", open_counted), (io, "open", open_counted), (torch, "save", save_counted),
    ):  # fmt: skip
        setattr(module, name, call)


class _Parts:
    """A file of which every part that is written reaches the system before the next."""

    def __init__(self, file: Any, note: Callable[[str], None]) -> None:
        self._file, self._note = file, note

    def write(self, part: Any) -> Any:
        written = self._file.write(part)
        self._file.flush()
        self._note("w")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def fill_disk(directory: Path) -> None:
    """Fill up the file system of a directory, which must be a small one of its own.

    Raises:
        RuntimeError: it is not: everybody else's disk would be full.
    """
    status = os.statvfs(directory)
    if status.f_blocks * status.f_frsize > LARGEST_DISK:
        raise RuntimeError(f"{directory} is not on a small disk of its own")
    file = os.open(directory / FILLER, os.O_WRONLY | os.O_CREAT)
    for size in (BLOCK, 512, 1):
        try:
            while os.write(file, bytes(size)):
                pass
        except OSError:
            continue
    os.close(file)


def limit_files(size: int) -> None:
    """Let no file become larger than this."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def forbid_writing(directory: Path, is_forbidden: bool = True) -> None:
    """Make a directory read-only, with all below it; or writable again."""
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o555 if is_forbidden else 0o755)


def obey_permissions() -> None:
    """Take from this process, if it is root's, the right to write where nobody may."""
    if os.geteuid() == 0:
        header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.capget(header, sets) == 0:
            sets[0] &= ~OVERRIDE
            libc.capset(header, sets)


def adopt_orphans() -> None:
    """Become the parent of the descendants whose parents end."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def can_mount() -> bool:
    """Whether this process may mount file systems; if so, nobody else sees them from now on."""
    private = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
    libc = ctypes.CDLL(None)
    is_own = libc.unshare(NEW_MOUNTS) == 0
    return bool(is_own and libc.mount(None, b"/", None, private, None) == 0)


def mount_small_disk(directory: Path, size: int) -> bool:
    """Mount a file system of so many bytes, in memory."""
    options = f"size={size}".encode()
    return bool(ctypes.CDLL(None).mount(b"tmpfs", bytes(directory), b"tmpfs", 0, options) == 0)


def unmount(directory: Path) -> None:
    """Unmount it."""
    ctypes.CDLL(None).umount2(bytes(directory), 2)


def fork_program(
    argv: Sequence[str],
    directory: Path,
    output: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], object],
) -> int:
    """Run a script in a fork of this process, which has imported what it needs.

    Args:
        argv: the script and its arguments.
        directory: in which it runs.
        output: for what it prints.
        environment: of the process.
        prepare: called before it.

    Returns:
        The number of the process, which leads a session of its own.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        _redirect(output)
        os.chdir(directory)
        _be_new(argv, environment)
        popen = SimpleNamespace(Popen=_ForkedServer, DEVNULL=None)
        forked_jobs.subprocess = popen  # type: ignore[assignment,attr-defined]
        prepare()
    except BaseException:
        os._exit(99)
    _run(argv[0])


def _run(script: str) -> NoReturn:
    sys.path.insert(0, os.path.dirname(script))
    run_to_exit(lambda: runpy.run_path(script, run_name="__main__"))


def _redirect(output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, place in ((0, nothing), (1, file), (2, file)):
        os.dup2(place, number)
    os.close(file)


def _be_new(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Leave behind what a new process would not have."""
    sys.argv[:] = argv
    sys.orig_argv[:] = [sys.executable, *argv]
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    atexit._clear()
    logging.getLogger().handlers.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _ForkedServer:
    """Stands in for the process of a server of jobs: a fork, which need not import again."""

    def __init__(
        self, command: Sequence[str], *, stdout: Any, env: Any, pass_fds: Any, **others: Any
    ) -> None:
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            # objects of the parent may still close these
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number in map(int, os.listdir("/proc/self/fd")):
                if number > 2 and number not in pass_fds and not _is_count(number):
                    os.dup2(nothing, number)
            _be_new(command[1:], env)
            from lit_optim.app import main

            serve_jobs(main)
        finally:
            os._exit(99)

    def wait(self) -> int:
        """Wait for its end."""
        return os.waitpid(self.pid, 0)[1]


def _is_count(number: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}").endswith("/calls")
    except OSError:
        return False
