"""How matrix products are fastest on this machine, measured: bfloat16 or float32, whole or half.

The flags of a CPU do not tell: with AMX bfloat16 is many times faster, with AVX512-BF16 twice, and
without either many times slower. Both are measured once per machine, and the result is kept beside
the compiled kernels, so that all processes of a machine decide alike. So is, on a GPU, the kernel
that computes half of a symmetric product, and on a CPU, float32 by oneDNN in place of MKL, which
uses half of what some processors of others than Intel can do.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from lit_optim.errors import UsageError, show
from lit_optim.kernels import compiler
from lit_optim.system import replace_file
from lit_optim.temporary import temporary_beside
from lit_optim.untrusted import Unreadable, read_json_mapping

#: The environment variable that overrides the measurement: float32 or bfloat16.
OVERRIDE = "LIT_OPTIM_PRODUCTS"
#: The size of the measured square matrices, by device type.
SIZES = {"cpu": 512, "cuda": 2048}
#: What a measurement has; earlier ones had less.
MEASURED = ("float32", "bfloat16", "symmetric", "onednn")
#: bfloat16 must take less than this share of the time, because it is less precise.
FASTER = 0.9
#: The least and the most rounds of a measurement; more are made if the two are close.
ROUNDS, MOST_ROUNDS, CLOSE = 3, 15, 1.6


@dataclass(frozen=True)
class Seconds:
    """The time of a product.

    Args:
        float32: in seconds, the shortest of several.
        bfloat16: in seconds, the shortest of several.
        symmetric: of a symmetric product in bfloat16, by our kernel; infinite where there is none.
        onednn: of a product in float32 by oneDNN; infinite where that cannot be called.
    """

    float32: float
    bfloat16: float
    symmetric: float = math.inf
    onednn: float = math.inf

    @property
    def speedup(self) -> float:
        """How many times as fast bfloat16 is."""
        return self.float32 / self.bfloat16


@cache
def prefers_bfloat16(device: str) -> bool:
    """Whether to compute products of float32 matrices in bfloat16 on this type of device.

    Raises:
        UsageError: the environment variable has a value other than float32 and bfloat16.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        if override not in ("float32", "bfloat16"):
            raise UsageError(f"{OVERRIDE} must be float32 or bfloat16, got {show(override)}")
        return override == "bfloat16"
    if device not in SIZES:
        return False
    seconds = known_seconds(device)
    if seconds is None:  # nothing can be kept, so processes might decide otherwise
        return device == "cuda" or has_tiles()
    return seconds.speedup > 1 / FASTER


@cache
def prefers_symmetric_kernel(device: str) -> bool:
    """Whether our kernel of symmetric products in bfloat16 is faster than whole products."""
    seconds = known_seconds(device) if device == "cuda" else None
    return seconds is not None and seconds.symmetric < FASTER * seconds.bfloat16


@cache
def prefers_onednn() -> bool:
    """Whether a CPU multiplies float32 matrices faster by oneDNN than by torch's own choice."""
    seconds = known_seconds("cpu")
    return seconds is not None and seconds.onednn < FASTER * seconds.float32


def multiply_by_onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product of two float32 matrices on a CPU, without gradients."""
    # slices of columns would be multiplied without vectors
    a, b = (x if x.is_contiguous() or x.mT.is_contiguous() else x.contiguous() for x in (a, b))
    # torch has it for its compiler: a bᵀ, with a bias and an activation that are not asked for
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")
    return product


def has_tiles() -> bool:
    """Whether the CPU reports AMX tiles for products in bfloat16."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def known_seconds(device: str) -> Seconds | None:
    """The measurement of this machine, made now if needed; None if it cannot be stored."""
    folder = compiler.cache_dir()
    if folder is None:
        return None
    path = folder / f"products-{_machine(device)}.json"
    return _read(path) or _keep(path, measure(device))


def measure(device: str) -> Seconds:
    """Time both dtypes in turns; noise only makes a product slower, so the shortest time counts."""
    size = SIZES[device]
    # no random numbers: those of the run are to stay as they are
    x = torch.linspace(-1, 1, size * size, device=device).reshape(size, size)
    kinds, least = (x, x.bfloat16()), [float("inf")] * 2
    for rounds in range(1, MOST_ROUNDS + 1):
        for k, matrix in enumerate(kinds):
            least[k] = min(least[k], _seconds_of_product(matrix))
        if rounds >= ROUNDS and not 1 / CLOSE < least[0] / least[1] < CLOSE:
            break
    symmetric = _time_symmetric(kinds[1]) if device == "cuda" else math.inf
    onednn = _time_onednn(x) if device == "cpu" else math.inf
    return Seconds(least[0], least[1], symmetric, onednn)


def _time_onednn(x: torch.Tensor) -> float:
    """The time of a float32 product by oneDNN; infinite where it fails or has another result."""
    try:
        found = multiply_by_onednn(x, x)
        if found.dtype != x.dtype or not torch.allclose(found, x @ x, rtol=1e-4, atol=1e-3):
            return math.inf
        return min(_seconds(lambda: multiply_by_onednn(x, x), x) for _ in range(ROUNDS))
    except Exception:  # of any class: this torch has no such function, or other arguments
        return math.inf


def _time_symmetric(x: torch.Tensor) -> float:
    """The time of our kernel; infinite where it fails or its result is not the product."""
    try:
        from lit_optim.kernels.symmetric_cuda import multiply_symmetric

        pair, expected = (x[None], x.mT[None]), x @ x.mT
        found = multiply_symmetric(*pair, 1.0, None, 0.0)[0]
        if not torch.allclose(
            found.float(), expected.float(), rtol=0.02, atol=0.01 * len(x) ** 0.5
        ):
            return math.inf
        rounds = range(ROUNDS)
        return min(_seconds(lambda: multiply_symmetric(*pair, 1.0, None, 0.0), x) for _ in rounds)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of any class: Triton is not there, or cannot compile for this GPU
        return math.inf


def _seconds_of_product(x: torch.Tensor) -> float:
    return _seconds(lambda: x @ x, x)


def _seconds(multiply: Callable[[], Any], x: torch.Tensor) -> float:
    # on a CPU the time of its cores: beside other work that on the clock would be of both
    clock = time.perf_counter if x.is_cuda else time.process_time
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = clock()
    multiply()
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return max(clock() - start, 1e-9)


def _machine(device: str) -> str:
    """A hash of what a measurement depends on."""
    unit = torch.cuda.get_device_name() if device == "cuda" else compiler.describe_cpu()
    threads = torch.get_num_threads() if device == "cpu" else 1
    text = "\n".join((torch.__version__, platform.machine(), unit, str(threads), *MEASURED))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> Seconds | None:
    try:
        kept = read_json_mapping(path)
    except (Unreadable, OSError):
        return None
    values = [kept.get(name, math.inf) for name in MEASURED]
    numbers = [float(v) for v in values if isinstance(v, int | float) and v > 0]
    valid = len(numbers) == len(values) and max(numbers[:2]) < 1e6
    return Seconds(*numbers) if valid else None


def _keep(path: Path, seconds: Seconds) -> Seconds | None:
    """Store a measurement, unless another process stored one first, which then counts."""
    temporary = temporary_beside(path)
    kept = {name: value for name, value in vars(seconds).items() if value < math.inf}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(kept), "utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            if _read(path) is None:  # it is broken
                replace_file(temporary, path)
        except OSError:  # a file system without links
            replace_file(temporary, path)
    except OSError:
        return None
    finally:
        _remove(temporary)
    return _read(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
