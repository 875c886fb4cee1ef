"""Data that fits in memory, in batches that do not depend on the number of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler
from torch.utils.data._utils.collate import default_convert

from lit_optim.errors import UsageError, how_many

#: How many samples of a batch the ranks get: any number, equally many, or at least one each.
Shares = Literal["any", "equal", "nonempty"]

#: The bytes of the batches that are gathered together, which stay in the cache of a core.
BLOCK_BYTES = 1 << 18
#: Where each of them begins: at a multiple of this many bytes, as a tensor of its own does.
ALIGNMENT = 64


class Batches(DistributedSampler[list[int]], SequentialSampler):
    """Yields batches of indices; each rank takes its share of the same global batch.

    The order is a pure function of (seed, epoch). Both base classes are there for their names only:
    Lightning does not replace such a sampler under DDP or with `overfit_batches`.

    Args:
        dataset: anything with a length.
        batch_size: samples in a global batch.
        shuffle: whether each epoch has a new order; otherwise the order of the data.
        seed: of the order.
        rank: this process, of `world_size`.
        world_size: number of processes.
        shares: "equal" cuts the last batch to a multiple of `world_size`, so that the mean of the
            ranks' gradients is the gradient of the batch. "nonempty" uses every sample, in batches
            of nearly equal size of which every rank has a sample; the gradients of the ranks must
            be weighed by their samples. "any" uses every sample, as an evaluation does.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shares: Shares = "any",
    ) -> None:
        super().__init__(dataset, world_size, rank, shuffle=shuffle, seed=seed)
        self.batch_size = batch_size
        self.shares = shares
        self._skipped = 0  # batches at the beginning of the next epoch

    def skip_batches(self, count: int) -> None:
        """Begin the next epoch after its first `count` batches, which an earlier run has seen."""
        self._skipped = count

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        for indices in self.tensors():
            yield indices.tolist()

    def tensors(self) -> Iterator[Tensor]:
        """Yield the same batches as tensors."""
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
            order = torch.randperm(count, generator=generator)
        else:
            order = torch.arange(count)
        if self.shares == "nonempty":
            batches = torch.tensor_split(order, max(1, len(self)))
        else:
            batches = torch.split(order, self.batch_size)
        skipped, self._skipped = self._skipped, 0
        if self.num_replicas == 1 and count:
            yield from batches[skipped:]
            return
        for batch in batches[skipped:]:
            if self.shares == "equal":
                batch = batch[: len(batch) // self.num_replicas * self.num_replicas]
            share = batch[self.rank :: self.num_replicas]
            if len(share):
                yield share

    def __len__(self) -> int:
        count = len(self.dataset)  # type: ignore[arg-type]
        full, rest = divmod(count, self.batch_size)
        if self.shares == "nonempty":
            return int(min(full + (rest > 0), count // self.num_replicas))
        return full + (rest > (self.num_replicas - 1 if self.shares == "equal" else self.rank))


def of_lists_or_tensors(take: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a `__getitem__` that takes a list of indices or a tensor of them.

    It returns a row for each index, whatever the others are.
    """
    take.takes_tensors = True  # type: ignore[attr-defined]
    return take


def takes_tensors(dataset: Any) -> bool:
    """Whether the `__getitem__` of a dataset is marked so; one that replaces it is not."""
    return hasattr(getattr(type(dataset), "__getitem__", None), "takes_tensors")


class TensorLoader(DataLoader[Any]):
    """Batches by indexing, in this process: what DataLoader does around it takes longer.

    Args:
        dataset: takes a list of indices and returns the batch.
        sampler: yields lists of indices.
    """

    def __init__(self, dataset: Any, sampler: Any) -> None:
        # its own generator: a loader that starts draws a number, from the model's otherwise
        super().__init__(dataset, None, sampler=sampler, generator=torch.Generator())

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        take, sampler = self.dataset.__getitem__, self.sampler
        is_ours = isinstance(sampler, Batches) and type(sampler).__iter__ is Batches.__iter__
        if is_ours and takes_tensors(self.dataset):
            yield from _in_blocks(take, sampler.tensors())  # type: ignore[attr-defined]
            return
        for indices in sampler:
            batch = take(indices)
            yield list(batch) if _is_plain(batch) else default_convert(batch)  # type: ignore[no-untyped-call]


def _is_plain(batch: Any) -> bool:
    return type(batch) is tuple and all(type(part) is Tensor for part in batch)


def _in_blocks(take: Callable[[Tensor], Any], batches: Iterator[Tensor]) -> Iterator[Any]:
    """Gather several batches together, which takes less time than each for itself.

    Where a tensor begins in memory decides about the last bits of a product. So a batch that would
    begin elsewhere than a tensor of its own is gathered for itself.

    Args:
        take: returns the rows of these indices.
        batches: of indices.
    """
    most, size = 1, 0
    while several := list(islice(batches, most)):
        starts = [0, *accumulate(map(len, several))]
        if len(several) > 1 and {*map(len, several[:-1])} == {size}:
            rows = take(torch.cat(several))
            for begin, end in pairwise(starts):
                yield [part[begin:end].data for part in rows]  # of which none knows of the others
            continue
        for indices in several:
            batch = take(indices)
            most, size = _count_together(batch), len(indices)
            yield list(batch) if _is_plain(batch) else default_convert(batch)  # type: ignore[no-untyped-call]


def _count_together(batch: Sequence[Any]) -> int:
    """Count the batches like this one that are gathered together."""
    is_aligned = _is_plain(batch) and all(part.nbytes % ALIGNMENT == 0 for part in batch)
    size = sum(part.nbytes for part in batch) if is_aligned else 0
    return max(1, BLOCK_BYTES // size) if size else 1


class TensorTask(LightningDataModule):
    """A task whose data are tensors; batches are slices of them, loaded without workers.

    Args:
        batch_size: samples per batch over all devices, so that the number of devices changes no
            result.
        shuffle: whether each epoch has a new order of the training data.
        seed: of that order.

    Raises:
        UsageError: the devices cannot share a batch equally.
    """

    def __init__(self, batch_size: int, shuffle: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self._train_shares: Shares = "equal"

    def allow_uneven_ranks(self, allowed: bool) -> None:
        """Say whether the gradient is weighed by the samples of each rank, before data are loaded.

        Then every training sample is used, however many devices share a batch.
        """
        self._train_shares = "nonempty" if allowed else "equal"

    def train_set(self) -> Any:
        """Return a dataset that takes a list of indices and returns the batch."""
        raise NotImplementedError

    def val_set(self) -> Any:
        """Return a dataset as `train_set` does; it may be empty."""
        raise NotImplementedError

    def test_set(self) -> Any:
        """Return a dataset as `train_set` does; it may be empty."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Called by Lightning."""
        shuffle = self.shuffle and not (self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]
        return self._loader(self.train_set(), shuffle, self._train_shares)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Called by Lightning."""
        return self._loader(self.val_set()) if len(self.val_set()) else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Called by Lightning."""
        return self._loader(self.test_set()) if len(self.test_set()) else []

    def _loader(
        self, dataset: Any, shuffle: bool = False, shares: Shares = "any"
    ) -> DataLoader[Any]:
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if self.batch_size % world_size:
            raise UsageError(
                f"data.batch_size={self.batch_size} is shared by all devices: "
                f"it must be a multiple of {world_size}"
            )
        if 0 < len(dataset) < world_size:
            raise UsageError(
                f"the data has {how_many(len(dataset), 'sample')}, too few for {world_size} devices"
            )
        sampler = Batches(dataset, self.batch_size, shuffle, self.seed, rank, world_size, shares)
        return TensorLoader(dataset, sampler)


class Pairs:
    """Inputs and targets of equal length; a list of indices gives a batch."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    @of_lists_or_tensors
    def __getitem__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        at = torch.as_tensor(indices)  # once for both
        return self.x[at], self.y[at]
