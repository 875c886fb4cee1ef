"""Compiles C text to a function in this process, by the system's compiler.

Compiled libraries are cached on disk between runs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from lit_optim.system import is_private, replace_file
from lit_optim.temporary import remove_leftovers, temporary_beside

#: No -ffast-math: NaN and infinities have to work. Errno and traps would only prevent vectorized
#: loops. No contraction: each operation rounds as in torch, so both executors give the same bits.
FLAGS = (
    "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
    "-fopenmp-simd", "-fPIC", "-shared",
)  # fmt: skip
#: Tried first: threads of the OpenMP runtime that torch has already loaded.
THREADED = ("-fopenmp",)
#: Another name of a flag: Apple's clang for Apple's processors did not know the first for years.
OF_APPLE = {"-march=native": "-mcpu=native"}
DIGEST = hashlib.sha256().digest_size


class CannotCompile(RuntimeError):
    """Why native kernels cannot be compiled on this machine, in one line."""


@cache
def find_compiler() -> tuple[str, ...]:
    """Return the command of the C compiler: $CC, cc, gcc or clang.

    Raises:
        CannotCompile: none of them exists.
    """
    for command in (os.environ.get("CC"), "cc", "gcc", "clang"):
        try:
            words = shlex.split(command or "")
        except ValueError:  # a quote that is not closed
            continue
        if words and shutil.which(words[0]):
            return tuple(words)
    raise CannotCompile("no C compiler: neither $CC nor cc, gcc or clang is there")


@cache
def describe_toolchain() -> str:
    """Describe what a compiled function depends on besides its text: compiler and CPU."""
    command = [*find_compiler(), "--version"]
    version = _run(command).stdout
    return "\n".join((" ".join(find_compiler()), version, platform.machine(), describe_cpu()))


def describe_cpu() -> str:
    """Return the models of the CPUs and their instruction sets."""
    try:
        cpu = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor()
    lines = [line for line in cpu.splitlines() if line.startswith(("flags", "model name"))]
    return "\n".join(sorted(set(lines)))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise CannotCompile(f"{command[0]} cannot be run: {error}") from None


def cache_dir() -> Path | None:
    """Return `$XDG_CACHE_HOME/lit_optim/kernels`, else that of `~/.cache`; None without a home."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "lit_optim" / "kernels"
    except RuntimeError:
        return None


def load_kernel(source: str) -> Any:
    """Return the function `step` of this C text, from the cache if it was compiled before.

    Many processes may call this at once: a file appears complete or not at all, and a damaged file
    is compiled again.

    Raises:
        CannotCompile: there is no compiler, or it fails.
    """
    text = "\n".join((source, *FLAGS, *THREADED, describe_toolchain()))
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.so"
    cached = cache_dir()
    if cached is not None:
        _clean_once(cached)
    kept = cached / name if cached else None
    if kept is None or not _is_intact(kept):
        try:
            binary = _compile(source)
        except OSError as error:
            raise CannotCompile(f"compiling is not possible: {error}") from None
        kept = store_in_cache(binary + hashlib.sha256(binary).digest(), name)
    try:
        function = ctypes.CDLL(str(kept)).step
    except (OSError, AttributeError) as error:
        raise CannotCompile(f"{kept} cannot be loaded: {error}") from None
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    return function


@cache
def _clean_once(directory: Path) -> None:
    remove_leftovers(directory)


def _is_intact(path: Path) -> bool:
    """Whether a file is this user's, and ends in the digest of its content.

    The loader ignores the digest. Someone else's library would run in this process.
    """
    try:
        if not is_private(path):
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def _compile(source: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lit_optim_") as folder:
        text, library = Path(folder) / "kernel.c", Path(folder) / "kernel.so"
        text.write_text(source, "utf-8")
        failures = []
        for renamed, threads in product(({}, OF_APPLE), (THREADED, ())):
            flags = [renamed.get(flag, flag) for flag in (*FLAGS, *threads)]
            done = _run([*find_compiler(), *flags, "-o", str(library), str(text), "-lm"])
            if done.returncode == 0 and library.exists():
                return library.read_bytes()
            failures.append(done.stderr.strip() or f"code {done.returncode}")
    # with the fewest flags that a compiler may not know
    raise CannotCompile(f"{find_compiler()[0]} fails: {failures[1].splitlines()[0]}")


def store_in_cache(content: bytes, name: str) -> Path:
    """Write a file to the cache atomically, or to a temporary folder if the cache is read-only."""
    for folder in (cache_dir(), None):
        try:
            place = folder or Path(tempfile.mkdtemp(prefix="lit_optim_"))
            place.mkdir(parents=True, exist_ok=True)
            part = temporary_beside(place / name, threading.get_ident())
            try:
                part.write_bytes(content)
                replace_file(part, place / name)
            finally:
                part.unlink(missing_ok=True)
        except OSError:
            continue
        return place / name
    raise CannotCompile("neither the cache nor a temporary folder can be written")
