"""Processor time of a whole update of nanoGPT's model for CPUs, with one optimizer and another.

    python scripts/bench_update.py --text shakespeare.txt
    python scripts/bench_update.py --text shakespeare.txt --optimizers adamw,muon,soap --updates 50

An update is what `experiment=char_lm_nanogpt` computes in one: loss, gradient, clipping and
step. The optimizers take turns in one process, each on a model of its own with the same batches.
The ratio is the median of the ratios to the first one within the rounds, with their range.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from bench_tasks import batches, loss_of
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch.nn.utils import clip_grad_norm_

from lit_optim.config.places import groups
from lit_optim.tasks.char_lm import GPT, CharText


def make_update(name: str, data: CharText) -> Callable[[], None]:
    """A model and its optimizer, as a call that makes an update."""
    torch.manual_seed(0)
    net = GPT(data.vocab_size, data.block)
    optimizer = get_class(OmegaConf.load(groups()["optimizer"][name])._target_)(net, lr=1e-3)
    source = batches(data)

    def update() -> None:
        x, y, _ = next(source)
        loss_of(net(x), y).backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def measure(update: Callable[[], None], count: int) -> float:
    """Seconds of the processor for an update, on average."""
    start = time.process_time()
    for _ in range(count):
        update()
    return (time.process_time() - start) / count


def main() -> None:
    """Measure, and print a line for each optimizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", required=True, help="a text file")
    parser.add_argument("--optimizers", default="adamw,normuon", help="the first is the baseline")
    parser.add_argument("--updates", type=int, default=20, help="in a turn")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = CharText(options.text, batch_size=12)
    data.prepare_data()
    data.setup("fit")
    updates = {name: make_update(name, data) for name in options.optimizers.split(",")}
    for update in updates.values():
        measure(update, 3)  # kernels are compiled, states are made
    rounds = [
        {name: measure(update, options.updates) for name, update in updates.items()}
        for _ in range(options.rounds)
    ]
    first = next(iter(updates))
    print(f"{'optimizer':20}{'ms/update':>10}{'x ' + first:>14}{'range':>14}")
    for name in updates:
        ratios = [one[name] / one[first] for one in rounds]
        told = f"{min(ratios):.2f}-{max(ratios):.2f}"
        took = 1e3 * median(one[name] for one in rounds)
        print(f"{name:20}{took:10.1f}{median(ratios):14.2f}{told:>14}")


if __name__ == "__main__":
    main()
