"""How long a step takes on a GPU: our Triton kernels, torch's fused AdamW, and a copy.

    python scripts/bench_cuda.py                    10^9 parameters in 100 tensors; 1,000 tensors
    python scripts/bench_cuda.py --params 2e8       where the memory is smaller
    python scripts/bench_cuda.py --dtype bfloat16
    python scripts/bench_cuda.py --optimizers "lion ademamix adamw,state_dtype=int8" --markdown
    python scripts/bench_cuda.py --all              every rule, matrix methods: docs/kernels.md
    python scripts/bench_cuda.py --all --rehearse   whether that runs: small, on the CPU

Each optimizer is beside torch's and a copy of as many bytes. All three step in one process, in
turn, round after round; a ratio is the median of the ratios within the rounds. The time is between
two events of the GPU with nothing before them, so that what Python does is in it where the GPU
waits for it. GB/s is what a step must at least move by the time it took: parameter and states read
and written, gradient read. Rules with sums over a tensor go over it twice, and move more: lamb 40
bytes a parameter and not 28. Half of the copy's bytes are read and half written. Before anything
is measured, our AdamW is compared with torch's.

`--all` is for a GPU that is lent for a quarter of an hour: after --minutes nothing more begins, and
the page is written after each optimizer, with the card, the versions, the date, and what is left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from bench_candidates import Candidate as Ours
from bench_candidates import ours
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import Parameter

from lit_optim.errors import UsageError
from lit_optim.optimizers.adamw import AdamW

WARMUP = 3
PAGE = Path(__file__).parents[1] / "docs" / "kernels.md"
#: What --all measures, the most important first.
ELEMENTWISE = (
    "adamw momentum lion ademamix adamw,state_dtype=int8 adamw,state_dtype=bfloat16 prodigy lamb "
    "stable_adamw mars lars schedule_free_adamw all-elementwise"
)
#: Matrix methods, and the width of the layers whose matrices they step.
MATRICES = [(name, 768) for name in ("muon", "normuon", "scion", "soap", "shampoo")]
MATRICES += [(name, 2048) for name in ("muon", "normuon", "scion")]
#: The seconds that are left to matrix methods.
RESERVED = 100
BASELINE = "torch fused"
#: Parts of the copy: so much less memory it needs.
PARTS = 8
HYPER = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}


@dataclass
class Candidate:
    """What is measured, and the milliseconds of its rounds."""

    name: str
    step: Callable[[], object]
    bytes_moved: int
    milliseconds: list[float] = field(default_factory=list)


def parameters(
    sizes: list[int], dtype: torch.dtype, gradients: list[Tensor], device: str
) -> list[Parameter]:
    """Parameters of these sizes, the same for each candidate."""
    generator = torch.Generator(device).manual_seed(0)
    params = []
    for size, g in zip(sizes, gradients, strict=True):
        value = torch.randn(size, device=device, dtype=dtype, generator=generator)
        params.append(Parameter(value))
        params[-1].grad = g
    return params


def gradients_of(sizes: list[int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Random gradients of these sizes."""
    generator = torch.Generator(device).manual_seed(1)
    return [torch.randn(n, device=device, dtype=dtype, generator=generator) for n in sizes]


def check(dtype: torch.dtype, device: str) -> None:
    """Compare some steps of ours with torch's loop.

    Raises:
        SystemExit: they differ by more than roundings.
    """
    sizes, hyper = [1, 300, 3 * 4096 + 5, 1 << 20], {**HYPER, "lr": 1.0}
    gradients = gradients_of(sizes, dtype, device)
    ours, theirs = (parameters(sizes, dtype, gradients, device) for _ in range(2))
    wide = [Parameter(p.detach().float()) for p in theirs]
    for p, g in zip(wide, gradients, strict=True):
        p.grad = g.float()
    one = AdamW(ours, **hyper, executor="native")  # type: ignore[arg-type]
    other = torch.optim.AdamW(wide, **hyper, foreach=False)  # type: ignore[arg-type]
    for _ in range(3):
        one.step()
        other.step()
    # torch steps in float32; ours rounds to dtype after each of three steps, which move p by 1
    close = 1e-5 if dtype == torch.float32 else 3 * torch.finfo(dtype).eps
    for p, q in zip(ours, wide, strict=True):
        error = (p.detach().float() - q.detach()).abs().max().item()
        largest = max(1.0, q.detach().abs().max().item())
        if not error <= close * largest:
            raise SystemExit(f"ours differs from torch by {error:.2g}: nothing is measured")


def candidates(wanted: Ours, sizes: list[int], dtype: torch.dtype, device: str) -> list[Candidate]:
    """Ours, torch's and a copy of as many bytes as ours moves."""
    gradients = gradients_of(sizes, dtype, device)
    mine = wanted.make(parameters(sizes, dtype, gradients, device))
    params = parameters(sizes, dtype, gradients, device)
    theirs = torch.optim.AdamW(params, **HYPER, fused=True)  # type: ignore[arg-type]
    found = []
    for name, optimizer in ((wanted.label.removesuffix(" native"), mine), (BASELINE, theirs)):
        optimizer.step()
        moved = 0
        for p in optimizer.param_groups[0]["params"]:
            state = [x for x in optimizer.state[p].values() if isinstance(x, Tensor) and x.ndim]
            moved += 3 * p.numel() * p.element_size()
            moved += sum(2 * x.numel() * x.element_size() for x in state)
        found.append(Candidate(name, optimizer.step, moved))
    copied = max(found[0].bytes_moved // 2 // PARTS, 1)
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(PARTS):
            target.copy_(source)

    found.append(Candidate("copy", copy, 2 * copied * PARTS))
    return found


def measure(found: list[Candidate], rounds: int, device: str) -> None:
    """Fill in the milliseconds, all candidates in turn."""
    for number in range(WARMUP + rounds):
        for candidate in found:
            took = milliseconds(candidate.step, device)
            if number >= WARMUP:
                candidate.milliseconds.append(took)


def milliseconds(step: Callable[[], object], device: str) -> float:
    """The time of a step, by the clock of the device."""
    if device == "cpu":
        began = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - began)
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    end.synchronize()
    took: float = start.elapsed_time(end)
    return took


def row(found: list[Candidate]) -> list[str]:
    """Ours beside the others."""
    mine, theirs, copy = (one.milliseconds for one in found)
    speed = found[0].bytes_moved / median(mine) / 1e6
    return [
        found[0].name,
        f"{median(mine):.3g}",
        f"{ratio(mine, theirs):.2f}",
        f"{speed:.0f}",
        f"{ratio(copy, mine):.0%}",
        f"{median(theirs):.3g}",
        f"{median(copy):.3g}",
    ]


def ratio(ones: list[float], others: list[float]) -> float:
    """The median of those within the rounds."""
    return median(a / b for a, b in zip(ones, others, strict=True))


HEADER = ["optimizer", "ms", f"x {BASELINE}", "GB/s", "of a copy", f"{BASELINE}, ms", "copy, ms"]


def markdown(title: str, rows: list[list[str]]) -> str:
    """A table of medians."""
    head = f"| {' | '.join(HEADER)} |\n|---|{'--:|' * (len(HEADER) - 1)}"
    return "\n".join([f"**{title}**", "", head, *(f"| {' | '.join(cells)} |" for cells in rows)])


def show(title: str, rows: list[list[str]], console: Console) -> None:
    """The same for a terminal."""
    table = Table(*HEADER, title=title, title_justify="left")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)


def measured(one: Ours, sizes: list[int], args: argparse.Namespace) -> list[str]:
    """The row of an optimizer on tensors of these sizes."""
    found = candidates(one, sizes, getattr(torch, args.dtype), args.device)
    measure(found, args.rounds, args.device)
    cells = row(found)
    del found
    if args.device == "cuda":
        torch.cuda.empty_cache()
    return cells


def matrix_method(name: str, width: int, args: argparse.Namespace, seconds: float) -> list[str]:
    """The lines of its table by `bench_matrix.py`; none, which is told, if it fails or is slow."""
    script = str(Path(__file__).with_name("bench_matrix.py"))
    command = [sys.executable, script, "--device", args.device, "--methods", name, "--markdown"]
    command += ["--width", str(width)]
    command += ["--peers", "torch,pytorch_optimizer", "--rounds", "1" if args.rehearse else "3"]
    command += ["--layers", "1", "--steps", "1"] if args.rehearse else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"{name} takes more than {seconds:.0f} s", file=sys.stderr)
        return []
    if done.returncode:
        print(f"{name} fails: {(done.stderr.strip() or '?').splitlines()[-1]}", file=sys.stderr)
    return [line for line in done.stdout.splitlines() if line.startswith("|")]


def measure_all(args: argparse.Namespace, shapes: dict[str, list[int]]) -> None:
    """Measure what begins in time, and write the page after each part."""
    end = time.monotonic() + 60 * args.minutes
    units = ours(ELEMENTWISE, ["native"])
    asked = list({one.label: one for unit in units for one in unit if one.kind == "ours"}.values())
    optimizers = asked[: 2 if args.rehearse else None]
    methods = MATRICES[: 1 if args.rehearse else None]
    missing = [one.label.removesuffix(" native") for one in optimizers]
    missing += [f"{method} of width {width}" for method, width in methods]
    tables: dict[str, list[list[str]]] = {title: [] for title in shapes}
    matrices: dict[int, list[str]] = {}

    def describe_all() -> str:
        parts = [f"`{args.command}`: {describe(args)}."]
        parts += [f"Not measured, for want of time: {', '.join(missing)}."] if missing else []
        parts += [markdown(title, rows) for title, rows in tables.items()]
        for width, lines in matrices.items():
            parts.append("\n".join([f"**Two layers of GPT-2, of width {width}**", "", *lines]))
        return "\n\n".join(parts)

    for one in optimizers:
        for title, sizes in shapes.items():
            tables[title].append(measured(one, sizes, args))
        missing.remove(one.label.removesuffix(" native"))
        write(args.page, describe_all())
        if time.monotonic() > end - RESERVED:
            break
    for method, width in methods:
        remaining = end - time.monotonic()
        lines = matrix_method(method, width, args, remaining) if remaining > 0 else []
        if lines:
            known = matrices.setdefault(width, [])
            known += lines[2 if known else 0 :]  # the header once
            missing.remove(f"{method} of width {width}")
            write(args.page, describe_all())
    print(describe_all())


def write(page: Path | None, text: str) -> None:
    """Put the text between the marks of a page.

    Raises:
        SystemExit: the page has none.
    """
    if page is None:
        return
    before, begin, rest = page.read_text("utf-8").partition("<!-- gpu -->\n")
    _, end, after = rest.partition("<!-- /gpu -->")
    if not (begin and end):
        raise SystemExit(f"bench_cuda: {page} has no <!-- gpu --> ... <!-- /gpu -->")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", "utf-8")


def describe(args: argparse.Namespace) -> str:
    """The card, the versions and the date."""
    card = torch.cuda.get_device_name() if args.device == "cuda" else "the CPU, to rehearse"
    try:
        triton = f", Triton {version('triton')}"
    except PackageNotFoundError:
        triton = ""
    return f"{card}, torch {torch.__version__}{triton}, {args.dtype}, {date.today():%Y-%m-%d}"


def main() -> None:
    """Read the arguments, compare, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--params", type=float, default=1e9, help="of the large shape")
    add("--rounds", type=int, help="default 30; 15 with --all")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--optimizers", default="adamw", help='such as "adamw lion,state_dtype=int8"')
    add("--all", action="store_true", help="every rule and matrix method, into docs/kernels.md")
    add("--minutes", type=float, default=12, help="of --all")
    add("--page", type=Path, help="that --all writes; default docs/kernels.md")
    add("--rehearse", action="store_true", help="small, on the CPU; without --page none is written")
    add("--markdown", action="store_true")
    args = parser.parse_args()
    args.command = " ".join(["python scripts/bench_cuda.py", *sys.argv[1:]])
    args.device = "cpu" if args.rehearse else "cuda"
    args.page = args.page or (None if args.rehearse else PAGE)
    args.rounds = args.rounds or (2 if args.rehearse else 15 if args.all else 30)
    try:
        asked = [one for unit in ours(args.optimizers, ["native"]) for one in unit]
    except UsageError as error:
        raise SystemExit(f"bench_cuda: {error}") from None
    asked = [one for one in asked if one.kind == "ours"]
    size = 1000 if args.rehearse else int(args.params) // 100
    if not args.rehearse:
        check_memory(args.params, size, getattr(torch, args.dtype))
    console = Console()
    console.print(describe(args))
    check(getattr(torch, args.dtype), args.device)
    small = "100 tensors of 1,000" if args.rehearse else "1,000 tensors of 1,000"
    shapes = {f"{100 * size:.3g} parameters in 100 tensors": [size] * 100}
    shapes[small] = [1000] * (100 if args.rehearse else 1000)
    if args.all:
        measure_all(args, shapes)
        return
    for title, sizes in shapes.items():
        rows = [measured(one, sizes, args) for one in asked]
        if args.markdown:
            print(markdown(title, rows) + "\n")
        else:
            show(title, rows, console)


def check_memory(params: float, size: int, dtype: torch.dtype) -> None:
    """Ask whether 100 tensors of this size fit.

    Raises:
        SystemExit: they do not, or there is no GPU.
    """
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use: nothing to measure")
    # parameters twice, gradients, states of torch's two and at most three of ours, two buffers of
    # the copy
    needed = 100 * size * (3 * dtype.itemsize + 5 * 4 + (3 * dtype.itemsize + 16) / PARTS)
    free, _ = torch.cuda.mem_get_info()
    if needed > free:
        fitting = params * 0.9 * free / needed
        raise SystemExit(
            f"--params {params:g} needs {needed / 1e9:.0f} GB of GPU memory, "
            f"{free / 1e9:.0f} are free: give at most {fitting:.2g}"
        )


if __name__ == "__main__":
    main()
