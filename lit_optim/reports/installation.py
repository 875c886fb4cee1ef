"""Checks the installation: versions, clashes, kernels, devices, and what can be written."""

from __future__ import annotations

import errno
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rich.table import Table

from lit_optim.errors import UsageError, first_line, how_many
from lit_optim.printing import Console
from lit_optim.threads import choose_threads, has_requested_threads, read_cpus

State = Literal["ok", "warning", "bad"]
STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "bad": "bold red"}
SHOWN = ("torch", "lightning", "torchmetrics", "hydra-core", "omegaconf", "tensorboard", "triton")
CHOOSE_GPU = "runs are on the CPU unless you set trainer=gpu"
#: Releases that were published by attackers.
MALWARE = {"lightning": ("2.6.2", "2.6.3")}


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Args:
        name: of what was checked.
        state: whether it is good.
        message: what was found, and what to do about it.
    """

    name: str
    state: State
    message: str


def doctor(console: Console) -> int:
    """Run all checks and print a line each; return the exit code: 1 if something is bad."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    worst = 0
    for check in CHECKS:
        for found in _findings(check):
            table.add_row(f"[{STYLES[found.state]}]{found.state}[/]", found.name, found.message)
            worst = max(worst, int(found.state == "bad"))
    console.print(table)
    return worst


def _findings(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except (ImportError, OSError) as error:  # a broken torch is a finding
        message = first_line(error)
        return [
            Finding(
                check.__name__,
                "bad",
                f"{message}: reinstall torch and the packages that belong to it",
            )
        ]


def find_version(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> Iterator[Finding]:
    """The installed versions, and releases that must not be used."""
    yield Finding("python", "ok", platform.python_version())
    for package in SHOWN:
        found = find_version(package)
        if found in MALWARE.get(package, ()):
            yield Finding(
                package, "bad", f"{found} was malware: pip install 'lightning>=2.6.4', and check "
                "what it may have read"
            )  # fmt: skip
        elif found is not None:
            yield Finding(package, "ok", found)


def clashes() -> Iterator[Finding]:
    """Packages that break each other."""
    torch, vision = find_version("torch"), find_version("torchvision")
    if torch is None or vision is None:
        return
    built = [name.partition("+")[2].startswith("cpu") for name in (torch, vision)]
    if built[0] and not built[1]:
        yield Finding(
            "torchvision", "bad", f"{vision} is built for CUDA and torch {torch} is not, so that "
            "`import lightning` fails: pip uninstall torchvision, or install its +cpu build"
        )  # fmt: skip
    else:
        yield Finding("torchvision", "ok", vision)


def kernels() -> Iterator[Finding]:
    """Whether kernels can be compiled."""
    import torch

    from lit_optim.kernels import compiler
    from lit_optim.optimizers.adamw import AdamW

    p = torch.nn.Parameter(torch.ones(8))
    p.grad = torch.ones(8)
    try:
        AdamW([p], executor="native").step()
        yield Finding("compiler", "ok", "an AdamW kernel was compiled or cached, and ran")
    except UsageError as error:
        yield Finding(
            "compiler", "warning", f"{error}; torch is used instead, several times slower"
        )
    cache = compiler.cache_dir()
    try:
        if cache is None:
            raise OSError(errno.ENOENT, "there is no home directory")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        message = f"{error.strerror}: every process compiles its kernels again"
        yield Finding(
            "kernel cache", "warning", f"{cache or ''} cannot be written, {message}".strip()
        )
        return
    files = [path for path in cache.glob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    yield Finding("kernel cache", "ok", f"{cache}: {how_many(len(files), 'file')}, {size:.1f} MB")


def devices() -> Iterator[Finding]:
    """CPUs and GPUs."""
    import torch

    yield Finding("cpu", "ok", _describe_cpus())
    yield from _products()
    if torch.backends.mps.is_available():
        yield Finding("gpu", "ok", f"Apple MPS, without float64 and our kernels; {CHOOSE_GPU}")
        return
    if not torch.cuda.is_available():
        yield Finding("gpu", "ok", "none that this torch can use; runs are on the CPU")
        return
    names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
    if find_spec("triton") is None:
        yield Finding("gpu", "warning", f"{names}; without triton kernels are torch's: pip install "
                      f"triton; {CHOOSE_GPU}")  # fmt: skip
    else:
        yield Finding("gpu", "ok", f"{names}, with triton; {CHOOSE_GPU}")


def _products() -> Iterator[Finding]:
    """The dtype in which matrix optimizers multiply."""
    import torch

    from lit_optim.optimizers.base.products import OVERRIDE, known_seconds, prefers_bfloat16

    for device in ("cpu", *["cuda"] * torch.cuda.is_available()):
        kind = "bfloat16" if prefers_bfloat16(device) else "float32"
        seconds = known_seconds(device)
        message = f"{device}: Muon and similar optimizers multiply in {kind}"
        if os.environ.get(OVERRIDE):
            message += f", as {OVERRIDE} says"
        elif seconds is not None:
            message += f"; measured, bfloat16 is {seconds.speedup:.2g} times as fast as float32"
            message += f" ({OVERRIDE}=float32 or bfloat16 decides instead)"
        else:
            message += "; the kernel cache cannot be written, so nothing is measured"
        yield Finding("products", "ok", message)


def _describe_cpus() -> str:
    """The CPUs, and the threads that a run would use."""
    import torch

    cpus = read_cpus()
    text = f"{cpus.total} CPUs, {cpus.busy:.1f} busy"
    if cpus.quota is not None:
        text += f", a quota of {cpus.quota:g}"
    if cpus.usable < cpus.total:
        text += f", {cpus.usable} usable"
    if has_requested_threads():
        return f"{text}; threads as OMP_NUM_THREADS or MKL_NUM_THREADS says"
    larger = choose_threads(None, at_most=torch.get_num_threads())
    return (
        f"{text}; small work gets 1 thread, larger work {larger.count} ({larger.reason}); "
        "trainer.threads=... sets another"
    )


def writing() -> Iterator[Finding]:
    """Whether runs and temporary files can be written."""
    for name, place in (("runs", Path("runs")), ("temporary files", Path(tempfile.gettempdir()))):
        there = place if place.exists() else Path.cwd()
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
            yield Finding(name, "ok", f"{place.absolute()} can be written")
        except OSError as error:
            yield Finding(name, "bad", f"{place.absolute()}: {error.strerror}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    versions,
    clashes,
    kernels,
    devices,
    writing,
)
