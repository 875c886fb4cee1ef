"""C text -> a function in this process, by the system's compiler, kept on disk between runs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

#: NaN and infinities are kept: no -ffast-math. Errno and traps would only keep loops from vectors.
#: No contraction: an operation rounds as in torch, so that both executors give the same bits.
FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
    "-fopenmp-simd", "-fPIC", "-shared",
)  # fmt: skip
#: Threads of the OpenMP that torch has already loaded, tried first.
THREADED = ("-fopenmp",)
DIGEST = hashlib.sha256().digest_size


class CannotCompile(RuntimeError):
    """Why there are no native kernels here, in one line."""


@cache
def compiler() -> tuple[str, ...]:
    """The command of the C compiler: $CC, cc, gcc or clang.

    Raises:
        CannotCompile: there is none.
    """
    for command in (os.environ.get("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return tuple(words)
    raise CannotCompile("no C compiler: neither $CC nor cc, gcc or clang is there")


@cache
def machine() -> str:
    """What a compiled function depends on beside its text: compiler and CPU."""
    command = [*compiler(), "--version"]
    version = subprocess.run(command, capture_output=True, text=True).stdout
    try:
        cpu = Path("/proc/cpuinfo").read_text("utf-8")
        lines = [line for line in cpu.splitlines() if line.startswith(("flags", "model name"))]
        cpu = "\n".join(sorted(set(lines)))
    except OSError:
        cpu = platform.processor()
    return "\n".join((" ".join(compiler()), version, platform.machine(), cpu))


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/lit_optim/kernels`, or under `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lit_optim" / "kernels"


def load(source: str) -> Any:
    """The function `step` of this C text.

    Taken from disk where it has been compiled before. Many processes may do so at once: a file
    appears whole or not at all, and one that is broken is made anew.

    Raises:
        CannotCompile: there is no compiler, or it fails.
    """
    text = "\n".join((source, *FLAGS, *THREADED, machine()))
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    kept = cache_dir() / name
    if not _is_whole(kept):
        binary = _compiled(source)
        kept = _kept(binary + hashlib.sha256(binary).digest(), name)
    try:
        function = ctypes.CDLL(str(kept)).step
    except (OSError, AttributeError) as error:
        raise CannotCompile(f"{kept} cannot be loaded: {error}") from None
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    return function


def _is_whole(path: Path) -> bool:
    """Whether the file is there and ends in the digest of what is before (a loader skips it)."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _compiled(source: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lit_optim_") as folder:
        text, made = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
        text.write_text(source, "utf-8")
        for threads in (THREADED, ()):
            command = [*compiler(), *FLAGS, *threads, "-o", str(made), str(text), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return made.read_bytes()
    told = (done.stderr.strip() or f"code {done.returncode}").splitlines()[0]
    raise CannotCompile(f"{compiler()[0]} fails: {told}")


def _kept(content: bytes, name: str) -> Path:
    """Written beside and renamed; where the cache cannot be written, into a temporary folder."""
    for folder in (cache_dir(), None):
        try:
            place = folder or Path(tempfile.mkdtemp(prefix="lit_optim_"))
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place, delete=False) as file:
                file.write(content)
            os.replace(file.name, place / name)
        except OSError:
            continue
        return place / name
    raise CannotCompile("neither the cache nor a temporary folder can be written")
