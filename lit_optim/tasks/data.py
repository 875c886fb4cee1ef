"""Data that fits in memory, in batches that do not depend on the number of devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from lit_optim.errors import UsageError


class Batches(DistributedSampler[list[int]], SequentialSampler):
    """Whole batches of indices; each rank takes its share of the same global batch.

    The order is a pure function of (seed, epoch). It is both base classes by name, so that
    Lightning leaves it as it is under DDP and under `overfit_batches`.

    Args:
        dataset: anything with a length.
        batch_size: samples in a global batch.
        shuffle: a new order each epoch; else the data's own.
        seed: of the order.
        rank: this process, of `world_size`.
        world_size: number of processes.
        even: cut a last ragged batch to a multiple of `world_size`, so that the mean of the ranks'
            gradients is the gradient of the batch; for evaluation every sample counts instead.
        whole: every sample counts and every rank has one in each batch: batches of nearly equal
            size, for who weighs the ranks by their samples.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        even: bool = False,
        whole: bool = False,
    ) -> None:
        super().__init__(dataset, world_size, rank, shuffle=shuffle, seed=seed)
        self.batch_size = batch_size
        self.even = even
        self.whole = whole
        #: batches of the next epoch that have been seen already: a run that goes on begins there
        self.skip = 0

    def __iter__(self) -> Iterator[list[int]]:  # type: ignore[override]
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
            order = torch.randperm(count, generator=generator)
        else:
            order = torch.arange(count)
        if self.whole:
            batches = torch.tensor_split(order, max(1, len(self)))
        else:
            batches = torch.split(order, self.batch_size)
        skip, self.skip = self.skip, 0
        for batch in batches[skip:]:
            if self.even:
                batch = batch[: len(batch) // self.num_replicas * self.num_replicas]
            mine = batch[self.rank :: self.num_replicas]
            if len(mine):
                yield mine.tolist()

    def __len__(self) -> int:
        count = len(self.dataset)  # type: ignore[arg-type]
        full, rest = divmod(count, self.batch_size)
        if self.whole:
            return int(min(full + (rest > 0), count // self.num_replicas))
        return full + (rest > (self.num_replicas - 1 if self.even else self.rank))


class TensorTask(LightningDataModule):
    """A task whose data are tensors: batches are slices of them, without workers.

    Args:
        batch_size: samples per batch over all devices, so that more devices change no result.
        shuffle: a new order of the training data each epoch.
        seed: of that order.

    Raises:
        ValueError: the devices cannot share a batch evenly.
    """

    def __init__(self, batch_size: int, shuffle: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed

    def train_set(self) -> Any:
        """A dataset that takes a list of indices and returns the batch."""
        raise NotImplementedError

    def val_set(self) -> Any:
        """As `train_set`; may be empty."""
        raise NotImplementedError

    def test_set(self) -> Any:
        """As `train_set`; may be empty."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Called by Lightning."""
        shuffle = self.shuffle and not (self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]
        callbacks = self.trainer.callbacks if self.trainer else ()  # type: ignore[attr-defined]
        whole = any(getattr(callback, "weighs_samples", False) for callback in callbacks)
        return self._loader(self.train_set(), shuffle=shuffle, even=not whole, whole=whole)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Called by Lightning."""
        return self._loader(self.val_set()) if len(self.val_set()) else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Called by Lightning."""
        return self._loader(self.test_set()) if len(self.test_set()) else []

    def _loader(self, dataset: Any, shuffle: bool = False, **kind: bool) -> DataLoader[Any]:
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if self.batch_size % world_size:
            raise UsageError(
                f"data.batch_size={self.batch_size} is shared by all devices: "
                f"it must be a multiple of {world_size}"
            )
        if 0 < len(dataset) < world_size:
            raise UsageError(f"{len(dataset)} samples are too few for {world_size} devices")
        sampler = Batches(dataset, self.batch_size, shuffle, self.seed, rank, world_size, **kind)
        # a generator of its own: a loader that starts draws a number, which would be the model's
        return DataLoader(dataset, None, sampler=sampler, generator=torch.Generator())


class Pairs:
    """Inputs and targets of equal length; a list of indices gives a batch."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        at = torch.tensor(indices)  # once for both
        return self.x[at], self.y[at]
