"""How long a step takes on a GPU: our Triton kernels, torch's fused AdamW, and a copy.

    python scripts/bench_cuda.py                    10^9 parameters in 100 tensors; 1,000 tensors
    python scripts/bench_cuda.py --params 2e8       where the memory is smaller
    python scripts/bench_cuda.py --dtype bfloat16
    python scripts/bench_cuda.py --optimizers "lion ademamix adamw,state_dtype=int8" --markdown

Each optimizer is beside torch's and a copy of as many bytes. All three step in one process, in
turn, round after round; a ratio is the median of the ratios within the rounds. The time is between
two events of the GPU with nothing before them, so that what Python does is in it where the GPU
waits for it. GB/s is what a step must at least move by the time it took: parameter and states read
and written, gradient read. Of the copy's bytes half are read and half written. Before anything is
measured, our AdamW is compared with torch's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
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

DEVICE = "cuda"
WARMUP = 3
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


def parameters(sizes: list[int], dtype: torch.dtype, gradients: list[Tensor]) -> list[Parameter]:
    """Parameters of these sizes, the same for each candidate."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    params = []
    for size, g in zip(sizes, gradients, strict=True):
        value = torch.randn(size, device=DEVICE, dtype=dtype, generator=generator)
        params.append(Parameter(value))
        params[-1].grad = g
    return params


def gradients_of(sizes: list[int], dtype: torch.dtype) -> list[Tensor]:
    """Random gradients of these sizes."""
    generator = torch.Generator(DEVICE).manual_seed(1)
    return [torch.randn(n, device=DEVICE, dtype=dtype, generator=generator) for n in sizes]


def check(dtype: torch.dtype) -> None:
    """Compare some steps of ours with torch's loop.

    Raises:
        SystemExit: they differ by more than roundings.
    """
    sizes, hyper = [1, 300, 3 * 4096 + 5, 1 << 20], {**HYPER, "lr": 1.0}
    gradients = gradients_of(sizes, dtype)
    ours, theirs = (parameters(sizes, dtype, gradients) for _ in range(2))
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


def candidates(wanted: Ours, sizes: list[int], dtype: torch.dtype) -> list[Candidate]:
    """Ours, torch's and a copy of as many bytes as ours moves."""
    gradients = gradients_of(sizes, dtype)
    mine = wanted.make(parameters(sizes, dtype, gradients))
    params = parameters(sizes, dtype, gradients)
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
    source = torch.zeros(copied, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(PARTS):
            target.copy_(source)

    found.append(Candidate("copy", copy, 2 * copied * PARTS))
    return found


def measure(found: list[Candidate], rounds: int) -> None:
    """Fill in the milliseconds, all candidates in turn."""
    for number in range(WARMUP + rounds):
        for candidate in found:
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
            start.record()
            candidate.step()
            end.record()
            end.synchronize()
            if number >= WARMUP:
                candidate.milliseconds.append(start.elapsed_time(end))


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


def show(title: str, rows: list[list[str]], console: Console, markdown: bool) -> None:
    """A table of medians."""
    header = [
        "optimizer",
        "ms",
        f"x {BASELINE}",
        "GB/s",
        "of a copy",
        f"{BASELINE}, ms",
        "copy, ms",
    ]
    if markdown:
        print(f"**{title}**\n\n| {' | '.join(header)} |\n|---|{'--:|' * (len(header) - 1)}")
        print("\n".join(f"| {' | '.join(cells)} |" for cells in rows) + "\n")
        return
    table = Table(*header, title=title, title_justify="left")
    for cells in rows:
        table.add_row(*cells)
    console.print(table)


def main() -> None:
    """Read the arguments, compare, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--params", type=float, default=1e9, help="of the large shape")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument(
        "--optimizers", default="adamw", help='such as "adamw lion,state_dtype=int8"'
    )
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    try:
        asked = [one for unit in ours(args.optimizers, ["native"]) for one in unit]
    except UsageError as error:
        raise SystemExit(f"bench_cuda: {error}") from None
    asked = [one for one in asked if one.kind == "ours"]
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use: nothing to measure")
    dtype: torch.dtype = getattr(torch, args.dtype)
    size = int(args.params) // 100
    # parameters twice, gradients, states of torch's two and at most three of ours, two buffers of
    # the copy
    needed = 100 * size * (3 * dtype.itemsize + 5 * 4 + (3 * dtype.itemsize + 16) / PARTS)
    free, _ = torch.cuda.mem_get_info()
    if needed > free:
        fitting = args.params * 0.9 * free / needed
        raise SystemExit(
            f"--params {args.params:g} needs {needed / 1e9:.0f} GB of GPU memory, "
            f"{free / 1e9:.0f} are free: give at most {fitting:.2g}"
        )
    console = Console()
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {args.dtype}")
    check(dtype)
    shapes = {f"{100 * size:.3g} parameters in 100 tensors": [size] * 100}
    shapes["1,000 tensors of 1,000"] = [1000] * 1000
    for title, sizes in shapes.items():
        rows = []
        for one in asked:
            found = candidates(one, sizes, dtype)
            measure(found, args.rounds)
            rows.append(row(found))
            del found
            torch.cuda.empty_cache()
        show(title, rows, console, args.markdown)


if __name__ == "__main__":
    main()
