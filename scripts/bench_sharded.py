"""What optimizers of sharded matrices send, and how much each process computes.

    python scripts/bench_sharded.py                       every method, 2 and 4 processes
    python scripts/bench_sharded.py --methods muon --processes 2 --width 256 --steps 3 --markdown

The matrices, biases and norms of GPT-2's layers are sharded by FSDP2 over processes of this
machine: over NCCL if there is a GPU for each, else over gloo. Gradients are drawn anew for each
step. The first step, which makes states and, for SOAP, the first bases, is not counted; a change of
basis every ten steps is in the others. Nor are Shampoo's first eleven, within which each side of a
matrix has its first decomposition, in turns.

sent: the bytes that all processes together send in a step, as torch's operators get them. At
      least each matrix must be where it is computed and come back from there: what the process with
      most of it lacks, twice.
work: the floating-point operations of products, QR and eigenvalues in a step, of the process with
      most of them, in shares of those of one process. At least that is one by the number of
      processes.
step: the time of a step with its gradients, the slowest process's, in units of one process's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import lit_optim
from lit_optim.errors import UsageError

METHODS = ["muon", "normuon", "scion", "soap", "shampoo"]
CLASSES = {name.lower(): name for name in ("Muon", "NorMuon", "Scion", "SOAP", "Shampoo")}
WIDTH = 768
#: How many steps are not counted, if not one.
UNCOUNTED = {"shampoo": 11}


class Found(NamedTuple):
    """What a process found in a step, on average.

    Args:
        sent: bytes.
        least: the bytes that all together send at least.
        flops: floating-point operations.
        seconds: the time of a step.
    """

    sent: float
    least: float
    flops: float
    seconds: float


class Layer(nn.Module):
    """The parameters of a layer of GPT-2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what this process sends to others."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func.name().split("::")
        if namespace == "c10d" and name.startswith("barrier"):
            pass
        elif namespace == "c10d" and name.startswith("alltoall_base_"):
            self.bytes += args[1].nbytes  # its own part is empty
        elif namespace == "c10d" and name.startswith("allreduce_"):
            others = dist.get_world_size() - 1
            self.bytes += sum(2 * x.nbytes * others / (others + 1) for x in args[0])
        elif namespace == "c10d" and name.startswith("_allgather_base_"):
            self.bytes += args[1].nbytes * (dist.get_world_size() - 1)
        elif namespace == "c10d" or (namespace == "_c10d_functional" and "wait" not in name):
            raise NotImplementedError(f"say in {__file__} what {func.name()} sends")
        return func(*args, **kwargs or {})


def measure(method: str, width: int, layers: int, steps: int, device: str) -> Found:
    """Step the layers, sharded if there are several processes."""
    model = nn.Sequential(*(Layer(width) for _ in range(layers))).to(device)
    if dist.is_initialized():
        from torch.distributed.fsdp import fully_shard

        for part in (*model, model):
            fully_shard(part)
    named = dict(model.named_parameters())
    matrices = {name: p for name, p in named.items() if p.ndim > 1}
    groups = [
        {"params": [p], "role": "hidden", "split": 3 if "qkv" in name else 1}
        for name, p in matrices.items()
    ]
    rest = {"params": [p for p in named.values() if p.ndim < 2], "role": "vector"}
    optimizer = getattr(lit_optim, CLASSES[method])([*groups, rest])
    traffic, flops = Traffic(), FlopCounterMode(display=False, custom_mapping=COUNTED)

    def step() -> None:
        for p in named.values():
            p.grad = drawn(p)
        wait(device)
        optimizer.step()

    for _ in range(UNCOUNTED.get(method, 1)):
        step()
    work = 0
    for _ in range(steps):
        with traffic, flops:  # which counts from zero each time
            step()
        work += flops.get_total_flops()
    took = 0.0
    for _ in range(steps):  # once more without counting, which takes time itself
        start = time.perf_counter()
        step()
        wait(device)
        took += time.perf_counter() - start
    least = sum(least_bytes(p, 3 if "qkv" in name else 1) for name, p in matrices.items())
    return Found(traffic.bytes / steps, least, work / steps, took / steps)


def drawn(p: Tensor) -> Tensor:
    """Normal numbers in the place of a gradient."""
    if not hasattr(p, "to_local"):
        return torch.randn_like(p) * 1e-3
    from torch.distributed.tensor import DTensor

    assert isinstance(p, DTensor)
    local = torch.randn_like(p.to_local()) * 1e-3
    return DTensor.from_local(
        local, p.device_mesh, p.placements, shape=p.shape, stride=p.stride(), run_check=False
    )


def wait(device: str) -> None:
    """Wait for the device, and for the other processes."""
    if device == "cuda":
        torch.cuda.synchronize()
    if dist.is_initialized():
        dist.barrier()


def least_bytes(p: Tensor, split: int) -> float:
    """What at least is sent for the matrices of a parameter, whose rows are divided evenly."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    size, per = p.shape[0] // split, -(-p.shape[0] // world)
    lacked = 0
    for k in range(split):
        common = [
            min((k + 1) * size, (rank + 1) * per) - max(k * size, rank * per)
            for rank in range(world)
        ]
        lacked += size - max(common)
    return 2.0 * lacked * p.shape[1] * p.element_size()


def _flops_of_products(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    """The FLOPs of a batch, added in place: torch counts only what is not in place."""
    return int(2 * torch.Size(a).numel() * b[-1])


def _flops_by_onednn(a: Any, transposed: Any, *_: Any, **__: Any) -> int:
    """The FLOPs of a float32 product on a CPU."""
    return int(2 * torch.Size(a).numel() * transposed[0])


def _flops_of_qr(shape: Any, *_: Any, **__: Any) -> int:
    """Householder's reflections, and then Q of them."""
    *batch, m, n = shape
    return int(torch.Size(batch).numel() * (4 * m * n * n - 4 * n**3 / 3))


def _flops_of_half_qr(shape: Any, *_: Any, **__: Any) -> int:
    """Either part of it, where they are called one by one."""
    return _flops_of_qr(shape) // 2


def _flops_of_eigenvalues(shape: Any, *_: Any, **__: Any) -> int:
    """To tridiagonal form, divided and conquered, and back."""
    *batch, _, n = shape
    return int(torch.Size(batch).numel() * 9 * n**3)


COUNTED: dict[Any, Any] = {
    torch.ops.aten.baddbmm_: _flops_of_products,
    torch.ops.mkldnn._linear_pointwise: _flops_by_onednn,
    torch.ops.aten.linalg_qr: _flops_of_qr,
    torch.ops.aten.geqrf: _flops_of_half_qr,
    torch.ops.aten.linalg_householder_product: _flops_of_half_qr,
    torch.ops.aten._linalg_eigh: _flops_of_eigenvalues,
}


def serve(
    rank: int, world: int, store: str, pipe: Any, arguments: tuple[str, int, int, int]
) -> None:
    """Measure in one of several processes."""
    warnings.simplefilter("ignore")
    has_gpus = torch.cuda.device_count() >= world
    device = "cuda" if has_gpus else "cpu"
    if has_gpus:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    backend = "nccl" if has_gpus else "gloo"
    dist.init_process_group(backend, f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    pipe.send(tuple(measure(*arguments, device)))  # the module has another name here
    dist.barrier()
    dist.destroy_process_group()


def together(world: int, arguments: tuple[str, int, int, int]) -> list[Found]:
    """What each of some processes measures."""
    context, found = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory(prefix="bench_sharded_") as folder:
        started = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            given = rank, world, str(Path(folder, "store")), theirs, arguments
            process = context.Process(target=serve, args=given, daemon=True)
            process.start()
            theirs.close()
            started.append((process, ours))
        for process, pipe in started:
            try:
                found.append(Found(*pipe.recv()))
            except EOFError:
                raise UsageError("a process failed: its error is above") from None
            process.join()
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    parser.add_argument("--processes", default="2,4", help="numbers of them, separated by commas")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"of a layer ({WIDTH})")
    parser.add_argument("--layers", type=int, default=2, help="(2)")
    parser.add_argument("--steps", type=int, default=10, help="that are counted (10)")
    parser.add_argument("--markdown", action="store_true", help="print a table in Markdown")
    args = parser.parse_args()
    methods, worlds = args.methods.split(","), [int(n) for n in args.processes.split(",")]
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"--methods: {method!r} is none of {', '.join(METHODS)}")
    header = ["method", "processes", "sent, MB", "x least", "work, x 1 / N", "step, s", "x one's"]
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(methods) * (1 + len(worlds)))
        for method in methods:
            arguments = method, args.width, args.layers, args.steps
            progress.update(task, description=method)
            one = measure(*arguments, "cuda" if torch.cuda.is_available() else "cpu")
            progress.advance(task)
            for world in worlds:
                found = together(world, arguments)
                progress.advance(task)
                sent, took = sum(each.sent for each in found), max(each.seconds for each in found)
                work = max(each.flops for each in found) / one.flops * world
                rows.append([
                    method, str(world), f"{sent / 1e6:.3g}", f"{sent / found[0].least:.3f}",
                    f"{work:.3f}", f"{took:.3g}", f"{took / one.seconds:.2f}",
                ])  # fmt: skip
    title = f"{args.layers} layers of GPT-2, {args.width} wide"
    if args.markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]))
        return
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(str(error))
