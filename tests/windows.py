"""Runs a program in this process as if it were on Windows, as far as this package can see.

    python tests/windows.py train.py optimizer=muon
    python tests/windows.py --jobs=job.py train.py -m seed=0,1

The jobs of a sweep are then what job.py does.

The modules of lit_optim find `os.name == "nt"`, none of what only POSIX has, no /proc, no forks,
streams in cp1252, and file operations that fail as they do there: directories are neither opened
nor synced, nothing replaces a directory or an open file, there are no links, and signal 0 would be
Ctrl-C. Packages of others, which are theirs to be right about Windows, see the system as it is.
"""

from __future__ import annotations

import io
import os
import pathlib
import runpy
import signal
import socket
import stat
import sys
import types
from importlib.machinery import SourceFileLoader

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OURS = ("lit_optim", "hydra_plugins")
#: Directories of Linux.
SYSTEMS = ("/proc", "/sys")
GONE = {
    "os": ("fork", "forkpty", "killpg", "register_at_fork", "sched_getaffinity", "getloadavg",
           "setsid", "setpgid", "getpgid", "getuid", "geteuid", "getgid", "getegid", "mkfifo",
           "memfd_create", "statvfs", "uname", "wait", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC",
           "O_DIRECTORY"),
    "signal": ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGSTOP", "SIGCONT", "SIGTSTP", "SIGUSR1",
               "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE", "alarm", "setitimer", "pthread_kill",
               "pthread_sigmask"),
    "socket": ("AF_UNIX", "send_fds", "recv_fds"),
}  # fmt: skip
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty")


class View(types.ModuleType):
    """A module as it is on Windows: some names are missing, others do something else."""

    def __init__(self, real, missing=(), **instead):
        super().__init__(real.__name__)
        vars(self).update(_real=real, _missing=frozenset(missing), **instead)

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        setattr(self._real, name, value)

    def __dir__(self):
        return [name for name in dir(self._real) if name not in self._missing]


class Translated(io.RawIOBase):
    """Takes bytes in cp1252, and writes them in UTF-8."""

    def __init__(self, stream):
        self.stream = stream.buffer

    def writable(self):
        return True

    def write(self, content):
        self.stream.write(bytes(content).decode("cp1252").encode())
        self.stream.flush()
        return len(content)


def open_files():
    """The paths of the files that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return found


def refuse_open(*paths):
    for path in map(os.path.abspath, paths):
        inside = [one for one in open_files() if f"{one}/".startswith(f"{path}/")]
        if inside:
            raise PermissionError(13, f"in use: {inside}", path)


def replace(source, target, **kwargs):
    refuse_open(source, target)
    if os.path.isdir(target):
        raise PermissionError(13, "is a directory", os.fspath(target))
    os.replace(source, target, **kwargs)


def rename(source, target, **kwargs):
    if os.path.lexists(target):
        raise FileExistsError(17, "exists", os.fspath(target))
    replace(source, target, **kwargs)


def open_handle(path, flags, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "is a directory", os.fspath(path))
    return os.open(path, flags, *args, **kwargs)


def sync(handle):
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        raise PermissionError(13, "is a directory")
    os.fsync(handle)


def kill(pid, number):
    assert number, "signal 0 is Ctrl-C on Windows"
    os.kill(pid, number)


def link(source, target, *, follow_symlinks=True, **kwargs):
    if not follow_symlinks:
        raise NotImplementedError("link: follow_symlinks unavailable on this platform")
    os.link(source, target, **kwargs)


def no_link(*args, **kwargs):
    raise OSError(1314, "A required privilege is not held by the client")


def hide(kind, name):
    """A method of paths, for which there is no /proc."""
    real = getattr(kind, name)

    def method(self, *args, **kwargs):
        if str(self).startswith(SYSTEMS) and sys._getframe(1).f_globals["__name__"].startswith(
            OURS
        ):
            if name == "exists":
                return False
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return real(self, *args, **kwargs)

    setattr(kind, name, method)


def become_windows():
    """Change this process; there is no way back."""
    views = {
        "os": View(os, GONE["os"], name="nt", replace=replace, rename=rename, open=open_handle,
                   fsync=sync, kill=kill, link=link, symlink=no_link),
        "signal": View(signal, GONE["signal"], SIGBREAK=signal.SIGUSR1),
        "socket": View(socket, GONE["socket"]),
        "sys": View(sys, platform="win32"),
    }  # fmt: skip

    def show(module):
        if module.__name__.split(".")[0] in OURS:
            for name, view in views.items():
                if vars(module).get(name) is sys.modules[name]:
                    vars(module)[name] = view

    for module in list(sys.modules.values()):
        if isinstance(module, types.ModuleType):
            show(module)
    execute = SourceFileLoader.exec_module

    def execute_and_show(self, module):
        execute(self, module)
        show(module)

    SourceFileLoader.exec_module = execute_and_show
    for name in MODULES:
        sys.modules[name] = None
    for name in ("read_text", "read_bytes", "exists", "is_file", "open"):
        hide(pathlib.Path, name)
    pathlib.Path.symlink_to = no_link
    pathlib.Path.replace, pathlib.Path.rename = replace, rename
    from lit_optim.system import OWN_GROUP

    OWN_GROUP.clear()
    for name in ("stdout", "stderr"):
        narrow = io.TextIOWrapper(Translated(getattr(sys, name)), "cp1252", write_through=True)
        setattr(sys, name, narrow)


if __name__ == "__main__":
    sys.path.insert(0, ROOT)
    del sys.argv[0]
    jobs = sys.argv.pop(0).partition("=")[2] if sys.argv[0].startswith("--jobs=") else ""
    become_windows()
    if jobs:
        from lit_optim.sweeps import processes

        processes.own_command = lambda: [sys.executable, jobs]
    sys.path[1] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
