"""`lit-optim doctor` sees what is wrong, and only that."""

from __future__ import annotations

import errno
import os
import re
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from lit_optim.cli import main
from lit_optim.kernels import compiler, cpu
from lit_optim.optimizers.base.products import prefers_bfloat16
from lit_optim.reports import installation as doctor


def told(capsys):
    code = doctor.doctor(Console(width=200))
    return code, capsys.readouterr().out


def as_installed(monkeypatch, **versions):
    known = {"torch": "2.13.0+cpu", "lightning": "2.6.6"} | versions
    monkeypatch.setattr(doctor, "find_version", known.get)


def test_nothing_is_wrong_here(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    code, out = told(capsys)
    assert code == 0, out
    assert "bad" not in out
    assert "can be written" in out
    assert "an AdamW kernel was compiled or cached, and ran" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("", r"multiply in (float32|bfloat16); measured, bfloat16 is \S+ times as fast as float32"),
        ("float32", "multiply in float32, as LIT_OPTIM_PRODUCTS says"),
        ("bfloat16", "multiply in bfloat16, as LIT_OPTIM_PRODUCTS says"),
    ],
)
def test_in_what_matrices_are_multiplied_is_told(override, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LIT_OPTIM_PRODUCTS", override)
    prefers_bfloat16.cache_clear()
    try:
        [found] = [f for f in doctor.devices() if f.name == "products" and "cpu" in f.message]
    finally:
        prefers_bfloat16.cache_clear()
    assert re.search(expected, found.message)


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out = told(capsys)
    assert code == 1
    assert out.count("reinstall torch and the packages that belong to it") == 2  # kernels, devices
    assert "can be written" in out


@pytest.mark.parametrize("bad", ["2.6.2", "2.6.3"])
def test_releases_that_were_malware(bad, monkeypatch, capsys):
    as_installed(monkeypatch, lightning=bad)
    code, out = told(capsys)
    assert code == 1
    assert f"{bad} was malware: pip install 'lightning>=2.6.4'" in out


@pytest.mark.parametrize(
    ("torch", "vision", "clash"),
    [
        ("2.13.0+cpu", "0.28.0", True),
        ("2.13.0+cpu", "0.28.0+cu130", True),
        ("2.13.0+cpu", "0.28.0+cpu", False),
        ("2.13.0+cu130", "0.28.0+cu130", False),
        ("2.13.0", "0.28.0", False),
    ],
)
def test_a_torchvision_for_cuda_beside_a_torch_without(torch, vision, clash, monkeypatch, capsys):
    as_installed(monkeypatch, torch=torch, torchvision=vision)
    code, out = told(capsys)
    assert code == clash
    assert ("pip uninstall torchvision" in out) == clash


def test_no_compiler_and_no_cache(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "_kernels", {})
    monkeypatch.setattr(cpu, "_failure", compiler.CannotCompile("no C compiler is found"))
    monkeypatch.setattr(compiler, "cache_dir", lambda: None)
    code, out = told(capsys)
    assert code == 0  # slower, but all works
    assert "no C compiler is found; torch is used instead" in out
    assert "cannot be written, there is no home directory: every process compiles" in out


def test_a_place_that_cannot_be_written(monkeypatch, capsys):
    def full(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", full)
    code, out = told(capsys)
    assert code == 1
    assert "Read-only file system" in out


def test_the_command(capsys):
    main(["doctor"])
    assert "python" in capsys.readouterr().out


def test_a_pipe_gets_no_trailing_blanks(capsys):
    with suppress(SystemExit):
        main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert [line for line in lines if line != line.rstrip()] == []
