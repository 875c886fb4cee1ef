"""How long optimizers of matrices take, beside other implementations.

    python scripts/bench_matrix.py                  every method, matrices of two GPT-2 layers
    python scripts/bench_matrix.py --methods soap --layers 1 --steps 20 --markdown
    python scripts/bench_matrix.py --device cuda --peers torch,pytorch_optimizer
    OMP_NUM_THREADS=1 python scripts/bench_matrix.py --processor-time      beside other work

Every candidate steps the same matrices in one process, in turn, with gradients that are drawn anew
for each step and not timed. A step's time is the mean over --steps steps, so that what is done
every ten steps is in it; the median and the worst of all steps tell how it is spread. The first
step, which makes states and, for SOAP, the first bases, is told apart, and the steps before Shampoo
has all roots are not counted. Ratios are within one round, their median is shown. ScalableShampoo
computes its roots every ten steps, as Shampoo does, not every thousand, its default.

The limit of Muon, NorMuon and Scion is their products of matrices at the rate of one large product
in the same dtype, measured in each round; of a symmetric one the part that is computed counts.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from statistics import fmean, median
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import lit_optim
from lit_optim.optimizers.base.newton_schulz import orthogonalize_flops
from lit_optim.optimizers.base.symmetric import computes_half

#: A layer of GPT-2, in units of its width: queries, keys and values, their projection, and the MLP.
LAYER = [(3, 1), (1, 1), (4, 1), (1, 4)]

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def candidates(method: str, peers: list[str]) -> dict[str, Make]:
    """What takes part: ours first, then whichever of these peers are installed."""
    ours: dict[str, Make] = {"lit_optim": getattr(lit_optim, CLASSES[method])}
    if method == "muon" and "torch" in peers:
        ours["torch"] = torch.optim.Muon
    for package, make in PEERS.get(method, {}).items():
        if package not in peers:
            continue
        try:
            module = __import__(package)
            ours[package] = make(module)
        except ImportError as error:
            print(f"{package} is left out: {error}", file=sys.stderr)
    return ours


CLASSES = {
    "muon": "Muon",
    "normuon": "NorMuon",
    "scion": "Scion",
    "soap": "SOAP",
    "shampoo": "Shampoo",
}
#: Those whose limit is known: their products are those of the Newton-Schulz iteration.
ITERATED = ("muon", "normuon", "scion")
PEERS: dict[str, dict[str, Callable[[Any], Make]]] = {
    "muon": {
        "pytorch_optimizer": lambda m: lambda p: m.Muon([{"params": p, "use_muon": True}]),
        "heavyball": lambda m: m.Muon,
    },
    "normuon": {
        "pytorch_optimizer": lambda m: lambda p: m.NorMuon([{"params": p, "use_muon": True}])
    },
    "scion": {"pytorch_optimizer": lambda m: m.SCION},
    "soap": {
        "pytorch_optimizer": lambda m: m.SOAP,
        "heavyball": lambda m: lambda p: m.SOAP(p, precondition_frequency=10),
    },
    "shampoo": {
        "pytorch_optimizer": lambda m: (
            lambda p: m.ScalableShampoo(p, preconditioning_compute_steps=10)
        )
    },
}


#: How many steps each method is warmed up for, if not one.
WARMUP = {"shampoo": 2 * 10}


class Runner:
    """A candidate and matrices of its own."""

    def __init__(
        self, make: Make, layers: int, width: int, device: str, clock: Callable[[], float]
    ) -> None:
        self.device, self.clock = device, clock
        self.generator = torch.Generator(device).manual_seed(0)
        self.params = [
            torch.nn.Parameter(self.random((m * width, n * width)) * 0.02)
            for _ in range(layers)
            for m, n in LAYER
        ]
        #: The time of each step.
        self.took: list[float] = []
        self.optimizer = make(self.params)

    def random(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def seconds(self, steps: int) -> float:
        """The mean time of a step."""
        for _ in range(steps):
            for p in self.params:
                p.grad = self.random(p.shape) * 1e-3
            self._wait()
            start = self.clock()
            self.optimizer.step()
            self._wait()
            self.took.append(self.clock() - start)
        return fmean(self.took[-steps:])

    def limit(self, rate: float) -> float:
        """The time of a step's products at this many floating-point operations per second."""
        groups = self.optimizer.param_groups
        return sum(count_flops(group, self.device) for group in groups) / rate

    def dtype(self) -> torch.dtype:
        """In which it multiplies."""
        return ns_dtype(self.optimizer.param_groups[0])

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def ns_dtype(group: dict[str, Any]) -> torch.dtype:
    """In what an optimizer multiplies the float32 matrices of a group."""
    return torch.bfloat16 if group.get("ns_dtype") == "bfloat16" else torch.float32


def count_flops(group: dict[str, Any], device: str) -> float:
    """The floating-point operations of the Newton-Schulz iterations of a group."""
    name, steps, dtype = group["ns_coefficients"], group["ns_steps"], ns_dtype(group)
    shapes = [p.shape for p in group["params"]]
    is_whole = not computes_half(device, dtype)
    return sum(orthogonalize_flops(m, n, name, steps, dtype, is_whole) for m, n in shapes)


def measure_rate(dtype: torch.dtype, device: str, clock: Callable[[], float]) -> float:
    """The floating-point operations per second of a large product, the best of several."""
    size = 1536 if device == "cpu" else 8192
    x, best = torch.randn(size, size, device=device).to(dtype), math.inf
    for _ in range(5):
        start = clock()
        _ = x @ x
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return 2.0 * size**3 / best


def measured(args: argparse.Namespace, method: str, progress: Progress) -> list[list[str]]:
    """The rows of one method."""
    runners = {
        name: Runner(make, args.layers, args.width, args.device, args.clock)
        for name, make in candidates(method, args.peers).items()
    }
    task = progress.add_task(method, total=(args.rounds + 1) * len(runners))
    first: dict[str, float] = {}
    for name, runner in [*runners.items()]:
        try:
            first[name] = runner.seconds(1)
            runner.seconds(WARMUP.get(method, 1))
            runner.took.clear()
        except Exception as error:  # a peer that cannot take these: said, and left out
            print(f"{method}: {name} fails: {str(error).splitlines()[0]}", file=sys.stderr)
            del runners[name]
        progress.advance(task)
    rounds, limits = [], []
    own = "lit_optim"
    for _ in range(args.rounds):
        times = {}
        if method in ITERATED:
            ours = runners[own]
            limits.append(ours.limit(measure_rate(ours.dtype(), args.device, args.clock)))
        for name, runner in runners.items():
            times[name] = runner.seconds(args.steps)
            progress.advance(task)
        rounds.append(times)
    rows = []
    for name in runners:
        ratio = median(times[own] / times[name] for times in rounds)
        label = method if name == own else f"  {name}"
        mean = median(times[name] for times in rounds)
        shares = [times[name] / limit for times, limit in zip(rounds, limits, strict=False)]
        of_limit = f"{median(shares):.2f}" if shares else ""
        spread = [f"{of(runners[name].took):.3g}" for of in (median, max)]
        numbers = [f"{mean:.3g}", f"{ratio:.2f}", of_limit, *spread, f"{first[name]:.3g}"]
        rows.append([label, *numbers])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--methods", default=",".join(CLASSES), help="some of " + ", ".join(CLASSES)
    )
    everyone = ["torch", *sorted({package for known in PEERS.values() for package in known})]
    parser.add_argument(
        "--peers", default=",".join(everyone), help=f"some of {', '.join(everyone)}, or none"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=768, help="of a layer (%(default)s)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads, not the time on the clock"
    )
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    args.clock = time.process_time if args.processor_time else time.perf_counter
    methods = args.methods.replace(",", " ").split()
    args.peers = args.peers.replace(",", " ").split()
    for method in methods:
        if method not in CLASSES:
            sys.exit(f"--methods: there is no {method!r}; allowed are {', '.join(CLASSES)}")
    warnings.simplefilter("ignore")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        rows = [row for method in methods for row in measured(args, method, progress)]
    header = ["optimizer", "a step, s", "ours / it", "x our limit", "median, s", "worst, s"]
    header.append("first step, s")
    if args.markdown:
        print(f"| {' | '.join(header)} |\n|---|{'--:|' * (len(header) - 1)}")
        for row in rows:
            print(f"| {' | '.join(row)} |")
        return
    table = Table(*header, title=f"{args.layers} layers of GPT-2, float32, {args.device}")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
