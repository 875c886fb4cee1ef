"""How long an optimizer's step takes, as ratios to torch's fused AdamW in the same run.

    python scripts/bench_optimizers.py                       all shapes, all rules
    python scripts/bench_optimizers.py --shapes mlp,small --optimizers adamw,lion

Milliseconds drift with the machine; ratios hold to about 15 %. Everything is interleaved, and the
best of the rounds counts. Gradients are there already: only `step` is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lit_optim.config.places import groups

GPT2_LAYER = [(2304, 768), (2304,), (768, 768), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
GPT2_LAYER += [(768,)] * 4
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "mlp": [(64, 32), (64,), (64, 64), (64,), (10, 64), (10,)],
    "small": [(32, 32)] * 2000,
    "big": [(5000, 10_000)],
    "gpt2": [(50257, 768), (1024, 768), *GPT2_LAYER * 12, (768,), (768,)],
}
#: torch's own beside them
PEERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "torch AdamW fused": lambda params: torch.optim.AdamW(params, fused=True),
    "torch AdamW foreach": lambda params: torch.optim.AdamW(params, foreach=True),
}
FLOOR = "torch AdamW fused"


def parameters(shapes: Iterable[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Parameters with gradients."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def milliseconds(optimizer: torch.optim.Optimizer, rounds: int) -> float:
    """Of one step, the best of the rounds; each is long enough for the clock."""
    optimizer.step()
    start = time.perf_counter()
    optimizer.step()
    steps = max(1, int(0.05 / (time.perf_counter() - start + 1e-6)))
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.step()
        best = min(best, (time.perf_counter() - start) / steps)
    return 1000 * best


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--optimizers", default="adamw,sgd,lion,ademamix", help="ours, by name")
    parser.add_argument("--executors", default="native", help="native, torch")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    makers = dict(PEERS)
    for name in args.optimizers.split(","):
        cls = get_class(OmegaConf.load(groups()["optimizer"][name])._target_)
        for executor in args.executors.split(","):
            makers[f"{name} {executor}"] = partial(cls, executor=executor)
    table = Table("optimizer", title=f"ms per step (x {FLOOR}), {torch.get_num_threads()} threads")
    found: dict[str, list[str]] = {name: [] for name in makers}
    for shape in track(args.shapes.split(","), description="shapes", console=Console(stderr=True)):
        table.add_column(f"{shape}", justify="right")
        best = dict.fromkeys(makers, float("inf"))
        for _ in range(2):  # once more round: a machine has slow seconds
            for name, make in makers.items():
                best[name] = min(
                    best[name], milliseconds(make(parameters(SHAPES[shape])), args.rounds)
                )
        for name, value in best.items():
            found[name].append(f"{value:.3f} ({value / best[FLOOR]:.2f})")
    for name, row in found.items():
        table.add_row(name, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
