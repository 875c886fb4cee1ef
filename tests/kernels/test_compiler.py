"""Kernels with a compiler, without one, and from the cache."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from lit_optim.errors import UsageError
from lit_optim.kernels import compiler
from lit_optim.kernels.compiler import CannotCompile
from lit_optim.optimizers.adamw import AdamW
from tests.kernels.compiling import ANSWER, SOURCE, answer

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)

LOAD = f"""
import ctypes
from lit_optim.kernels.compiler import load_kernel
numbers = (ctypes.c_double * 2)(0, 0.5)
place = ctypes.addressof(numbers)
load_kernel({SOURCE!r})(place, place + 8, 20, 3)
print(numbers[0])
"""


def process(home):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD],
        env=os.environ | {"XDG_CACHE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_cache_is_shared_repaired_and_optional(tmp_path):
    at_once = [process(tmp_path) for _ in range(4)]
    for started in at_once:
        out, err = started.communicate(timeout=120)
        assert out.strip() == ANSWER, err
    [kept] = (tmp_path / "lit_optim/kernels").iterdir()  # one file, no leftovers
    whole = kept.read_bytes()
    for broken in (b"", whole[:-500], whole[:4000] + bytes(200) + whole[4200:]):
        assert broken != whole
        kept.write_bytes(broken)
        out, err = process(tmp_path).communicate(timeout=120)
        assert out.strip() == ANSWER, err
        assert compiler._is_intact(kept)
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    out, err = process(nowhere).communicate(timeout=120)
    assert out.strip() == ANSWER, err


def test_a_cached_kernel_needs_no_compiler(kernel_cache, monkeypatch):
    assert answer() == ANSWER
    monkeypatch.setattr(compiler, "_compile", None)  # to call it would fail
    assert answer() == ANSWER


def command(folder, script):
    """Write an executable script, in which `$out` is the path of the output."""
    path = folder / "a compiler"
    find = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && out="$2"; shift; done\n'
    path.write_bytes(b"#!/bin/sh\n" + find.encode() + script)
    path.chmod(0o755)
    return f"'{path}'"


#: what $CC does, and what is told of it
FAILURES = {
    "fails": (b"echo 'no such flag' >&2; echo more >&2; exit 4", r"fails: no such flag$"),
    "fails silently": (b"exit 4", r"fails: code 4$"),
    "tells what is no text": (rb"printf '\377\376 bad\n' >&2; exit 1", "fails: "),
    "makes nothing": (b"exit 0", ""),
    "makes nonsense": (b'[ -z "$out" ] || echo nonsense > "$out"', "cannot be loaded"),
}


def refusal(call, *args):
    with pytest.raises(CannotCompile) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_compiler_is_reported_in_one_line(failure, kernel_cache, tmp_path, monkeypatch):
    script, told = FAILURES[failure]
    monkeypatch.setenv("CC", command(tmp_path, script))
    assert re.search(told, refusal(answer))


def test_a_compiler_that_cannot_run_is_reported_in_one_line(kernel_cache, tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_text("neither a script nor a binary")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    refusal(answer)


def test_an_invalid_cc_variable_is_ignored(kernel_cache, monkeypatch):
    monkeypatch.setenv("CC", "'/opt/my compiler/cc")
    with suppress(CannotCompile):
        assert answer() == ANSWER  # by another one


def test_source_that_does_not_compile(kernel_cache):
    assert "error" in refusal(answer, "int step(")
    assert "cannot be loaded" in refusal(answer, "void another(void) {}")


def step(executor):
    p = torch.nn.Parameter(torch.ones(10))
    p.grad = torch.ones_like(p)
    AdamW([p], lr=0.5, executor=executor).step()
    assert torch.allclose(p, torch.tensor(0.495))  # 1 - 0.5 * 0.01, then 0.5 down


@pytest.mark.parametrize("failure", ["no compiler", "fails", "makes nothing"])
def test_without_kernels_torch_computes(failure, kernel_cache, tmp_path, monkeypatch, caplog):
    if failure == "no compiler":
        monkeypatch.setenv("CC", "")
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CC", command(tmp_path, FAILURES[failure][0]))
    with caplog.at_level("INFO", "lit_optim"):
        step("auto")
    [line] = caplog.messages
    assert "torch for the others, because" in line
    with pytest.raises(UsageError, match=r"^executor=native: AdamW cannot: .") as error:
        step("native")
    assert "\n" not in str(error.value)
    if failure == "no compiler":
        assert "no C compiler: neither $CC nor cc, gcc or clang is there" in str(error.value)


# a full disk


def test_a_full_disk_under_the_cache(kernel_cache, monkeypatch):
    """The kernel is loaded from a temporary folder, and the cache stays unchanged."""
    write = Path.write_bytes

    def full(path, content):
        if path.parent == kernel_cache:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert answer() == ANSWER
    assert not [*kernel_cache.iterdir()]


@contextmanager
def full_disks(size=0):
    """Limit the size of files in bytes: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, len(SOURCE) + 100])  # not even the source; the binary not
def test_full_disks_everywhere(size, kernel_cache):
    with full_disks(size):
        refusal(answer)
    assert not kernel_cache.exists() or not [*kernel_cache.iterdir()]


def test_full_disks_leave_the_torch_executor(kernel_cache):
    with full_disks():
        step("auto")


def test_without_a_home_directory(kernel_cache, monkeypatch):
    """As in containers whose user is not in /etc/passwd."""

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compiler.Path, "home", nobody)
    assert answer() == ANSWER


@pytest.mark.parametrize(
    "unknown", [("-fopenmp",), ("-march=native",), ("-fopenmp", "-march=native")]
)
def test_a_compiler_of_a_mac_lacks_some_flags(unknown, kernel_cache, tmp_path, monkeypatch):
    tests = " ".join(f"{flag}) exit 1 ;;" for flag in unknown)
    script = tmp_path / "clang"
    compiler_here = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    # it knows -mcpu=native, which that of this machine may not
    known = '-mcpu=native) ;; *) words+=("$word") ;;'
    loop = f'for word in "$@"; do case "$word" in {tests} {known} esac; done'
    script.write_text(f'#!/bin/bash\n{loop}\nexec {compiler_here} "${{words[@]}}"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    assert str(answer()) == ANSWER
