"""Replays what is computed of small tensors on a GPU as CUDA graphs.

To start a kernel takes the processor longer than a small kernel runs; a graph starts all kernels of
a function by one call. The graphs of a stream share a buffer, for argument and result, and the
memory for what is computed on the way, so they take little more of it than the largest one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

LOG = logging.getLogger("lit_optim")

#: The elements of the largest argument: more keep the GPU busy while the next kernels are started.
LARGEST = 1 << 25
#: How many graphs a process has at most.
MOST = 64


@dataclass
class Stream:
    """What the graphs of a stream share: a buffer for arguments and results, and other memory."""

    buffer: Tensor
    pool: Any


class Graph:
    """The kernels of a function of one tensor.

    Args:
        function: returns a tensor of the shape and dtype of its argument, which it may overwrite.
        given: where its argument is put before each replay, and its result is found after it.
        pool: of the memory for what it computes on the way.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], given: Tensor, pool: Any) -> None:
        self.given, self._graph = given, torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            found = function(given)
            if found is not given:
                given.copy_(found.view_as(given))

    def replay(self) -> Tensor:
        """Compute from what is in `given`, and return the result; the next call overwrites it."""
        self._graph.replay()
        return self.given


_streams: dict[Hashable, Stream] = {}
#: A graph; None where its capture failed, after which none is tried; False for what has been asked
#: for once. They are kept: torch takes no memory pool again whose graphs are all gone.
_graphs: dict[Hashable, Graph | bool | None] = {}


def find(
    key: Hashable,
    function: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Graph | None:
    """Return the graph of a function of such tensors, or None where it is to be called instead.

    A function is captured when it is asked for again: it has been called then, so that its kernels
    are compiled.

    Args:
        key: tells the function from others.
        function: see `Graph`.
        shape: of its argument.
        dtype: of its argument.
        device: of its argument.
    """
    if device.type != "cuda" or prod(shape) > LARGEST:
        return None
    if torch.cuda.is_current_stream_capturing():  # by the caller, who will replay all of it
        return None
    place = device, torch.cuda.current_stream(device).cuda_stream
    key = key, shape, dtype, place
    graph = _graphs.get(key, True)
    if graph is True and len(_graphs) < MOST and None not in _graphs.values():
        _graphs[key] = False
    elif graph is False:
        with torch.cuda.device(device):
            graph = _graphs[key] = _capture(function, shape, dtype, device, place)
    return graph if isinstance(graph, Graph) else None


def _capture(
    function: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    place: Hashable,
) -> Graph | None:
    size = prod(shape) * dtype.itemsize
    stream = _streams.get(place)
    if stream is None or stream.buffer.numel() < size:
        buffer = torch.empty(size, dtype=torch.uint8, device=device)
        stream = Stream(buffer, stream.pool if stream else torch.cuda.graph_pool_handle())
        _streams[place] = stream
    given, usual = stream.buffer[:size].view(dtype).view(shape), torch.cuda.current_stream()
    try:
        return Graph(function, given.zero_(), stream.pool)
    except Exception as error:  # of any class: this cannot be captured
        LOG.warning("no CUDA graph, so kernels are started one by one: %s", error)
        torch.cuda.set_stream(usual)
        with suppress(RuntimeError):
            _end_failed_capture()
        return None


def _end_failed_capture() -> None:
    """Let torch draw random numbers again: it would not, as if a capture that failed went on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the graph is empty
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
            pass
