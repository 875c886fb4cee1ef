"""The shorter loop takes the batches that Lightning takes, from whatever loads them."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lit_optim.training.overrides import shorten_epoch_loop
from tests.lightning.modules import trainer


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(torch.arange(float(self.count)))


class Shorter(DataLoader):
    """Has fewer batches than it says."""

    def __len__(self):
        return 9


def loader(count=10, kind=DataLoader):
    return kind(torch.arange(float(count)), batch_size=2)


class Stateful:
    """Counts what it has given."""

    def __init__(self):
        self.given = 0

    def __len__(self):
        return 5

    def __iter__(self):
        for k in range(5):
            self.given += 1
            yield torch.tensor([float(k)])

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.given = state["given"]


LOADERS = {
    "a loader": loader,
    "a list of one": lambda: [loader()],
    "a dict of one": lambda: {"a": loader()},
    "nested": lambda: {"a": [loader(), {"b": loader(4)}]},
    "two": lambda: [loader(), loader(4)],
    "no length": lambda: DataLoader(Stream(7), batch_size=2),
    "a list of tensors": lambda: list(torch.arange(6.0).split(2)),
    "fewer than it says": lambda: loader(kind=Shorter),
    "with a state": Stateful,
    **{
        f"{mode} of {count}": lambda mode=mode, count=count: CombinedLoader(
            [loader(10 - 4 * k) for k in range(count)], mode
        )
        for mode in ("max_size_cycle", "max_size", "min_size")
        for count in (1, 2)
    },
}


class Sees(LightningModule):
    def __init__(self):
        super().__init__()
        self.p, self.seen = nn.Parameter(torch.ones(())), []

    def training_step(self, batch, batch_idx):
        fetcher = self.trainer.fit_loop._data_fetcher
        place = fetcher.fetched, fetcher.done, fetcher.length, self.trainer.is_last_batch
        self.seen.append((self.trainer.current_epoch, batch_idx, str(batch), place))
        return self.p.square()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "arguments",
    [{}, {"limit_train_batches": 3}, {"max_steps": 7}, {"overfit_batches": 2}],
    ids=lambda arguments: next(iter(arguments), "all"),
)
@pytest.mark.parametrize("kind", LOADERS)
def test_batches_are_those_of_lightning(kind, arguments, tmp_path):
    seen = []
    for prepare in (lambda made: made, shorten_epoch_loop):
        module = Sees()
        made = prepare(trainer(tmp_path, max_epochs=2, **arguments))
        made.fit(module, LOADERS[kind]())
        states = made.fit_loop.on_save_checkpoint().get("combined_loader")
        seen.append((module.seen, made.fit_loop.state_dict(), states))
    assert seen[0] == seen[1]
    assert seen[0][0]
