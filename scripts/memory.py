"""Write the table of docs/memory.md: bytes per parameter of every optimizer and setting.

    python scripts/memory.py            write the table
    python scripts/memory.py --check    exit with 1 and a message if it is out of date

The numbers are computed from the states that an optimizer makes for a matrix of 1024 x 1024;
tests/test_memory.py holds them against what is allocated. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from lit_optim.config.places import listed_choices
from lit_optim.errors import UsageError
from lit_optim.optimizers import find_optimizer
from lit_optim.optimizers.base.matrixwise import Matrixwise
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.reports.memory import Memory, memory_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "memory.md"
SIZE = 1024
#: The columns: the precision of parameters and gradients, and the options.
SETTINGS: dict[str, tuple[torch.dtype, dict[str, str]]] = {
    "float32": (torch.float32, {}),
    "and `state_dtype=bfloat16`": (torch.float32, {"state_dtype": "bfloat16"}),
    "and `state_dtype=int8`": (torch.float32, {"state_dtype": "int8"}),
    "bfloat16": (torch.bfloat16, {}),
    "and `master=split`": (torch.bfloat16, {"master": "split"}),
    "and `state_dtype=int8` too": (torch.bfloat16, {"master": "split", "state_dtype": "int8"}),
}

#: LBFGS keeps as much as it is told to.
OTHERS = {"lbfgs": ["16 + 8 `history_size`", *["-"] * len(SETTINGS)]}


def main() -> None:
    """Write the table, or check that it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    logging.getLogger("lit_optim").setLevel(logging.ERROR)
    old = PAGE.read_text("utf-8")
    before, begin, rest = old.partition("<!-- memory -->\n")
    _, end, after = rest.partition("<!-- /memory -->")
    if not end:
        sys.exit(f"memory: {PAGE} has no <!-- memory --> ... <!-- /memory -->")
    new = before + begin + memory_table() + end + after
    if new == old:
        return
    if args.check:
        sys.exit(f"memory: {PAGE} is out of date; run python scripts/memory.py")
    PAGE.write_text(new, "utf-8")


def memory_table() -> str:
    """A row for each optimizer."""
    lines = [
        f"| optimizer | {' | '.join(SETTINGS)} | minimum, with gradient release |",
        f"|---|{'---:|' * (len(SETTINGS) + 1)}",
    ]
    for name in listed_choices("optimizer"):
        cells = OTHERS.get(name) or cells_of(name)
        lines.append(f"| [{name}](optimizers/{name}.md) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cells_of(name: str) -> list[str]:
    """The bytes per parameter of an optimizer in each setting; `-` where it has no such option."""
    found = [compute(name, *setting) for setting in SETTINGS.values()]
    least = min((one.total - one.gradients) / one.count for one in found if one is not None)
    cells = ["-" if one is None else f"{one.total / one.count:.4g}" for one in found]
    return [*cells, "-" if find_optimizer(name).needs_all_gradients else f"{least:.4g}"]


def compute(
    name: str, dtype: torch.dtype, options: Mapping[str, str], size: int = SIZE
) -> Memory | None:
    """The memory of a matrix of an optimizer; None if it does not take these options."""
    kind = find_optimizer(name)
    is_ours = issubclass(kind, OptimizerBase)
    if options and not is_ours:
        return None
    device = "meta" if is_ours else "cpu"
    matrix = nn.Parameter(torch.ones(size, size, dtype=dtype, device=device))
    role = {"role": "hidden"} if issubclass(kind, Matrixwise) else {}
    try:
        optimizer = kind([{"params": [matrix], **role}], **options)
    except UsageError:
        return None
    if not is_ours:  # its states are those that a step makes
        matrix.grad = torch.zeros_like(matrix)
        optimizer.step()
    return memory_of(optimizer, nn.ParameterList([matrix]))


if __name__ == "__main__":
    main()
