"""The data are as described, and their batches do not depend on the devices."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric

from lit_optim.errors import UsageError
from lit_optim.tasks import classifiers
from lit_optim.tasks.char_lm import GPT, IGNORED, CharText, Windows
from lit_optim.tasks.classification import Digits, Mnist1d
from lit_optim.tasks.data import Batches


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lit_optim" / "mnist1d.npz"


def test_mnist1d_is_the_papers_and_is_cached(cache):
    from mnist1d.data import get_dataset_args, make_dataset

    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    arrays = Mnist1d().arrays()
    assert (np.random.get_state()[1] == before).all()  # generating touches no global generator
    expected = make_dataset(get_dataset_args())
    for name in ("x", "y", "x_test", "y_test"):
        assert np.array_equal(arrays[name], expected[name])
    assert arrays["x"].shape == (4000, 40)
    # of the package's version that was found equal to the paper's file; a new one may differ
    labels = np.concatenate([arrays["y"], arrays["y_test"]]).astype(np.uint8)
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:12] == "4f5f4160c519"
    written = cache.stat().st_mtime_ns
    assert np.array_equal(Mnist1d().arrays()["x"], arrays["x"])
    assert cache.stat().st_mtime_ns == written


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_broken_cache_is_replaced(cache, content, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    made = {
        "x": np.ones((2, 40)),
        "y": np.zeros(2),
        "x_test": np.ones((1, 40)),
        "y_test": np.zeros(1),
    }
    monkeypatch.setattr("lit_optim.tasks.classification._generate", lambda: made)
    assert Mnist1d().arrays() is made
    with np.load(cache) as again:
        assert np.array_equal(again["x"], made["x"])


def test_digits_are_split_as_in_the_example():
    data = Digits(val_share=0.0)
    data.setup("fit")
    assert (len(data.train_set()), len(data.test_set())) == (898, 899)
    assert not data.val_dataloader()


def test_validation_is_the_end_of_the_training_set():
    whole, part = Digits(val_share=0.0), Digits(val_share=0.1)
    whole.setup("fit")
    part.setup("fit")
    assert len(part.val_set()) == 90
    assert torch.equal(torch.cat([part.train_set().x, part.val_set().x]), whole.train_set().x)


@pytest.mark.parametrize(
    ("name", "count"), [("Linear", 410), ("MLP", 15210), ("CNN", 5210), ("GRU", 5134)]
)
def test_models_have_the_papers_sizes(name, count):
    model = getattr(classifiers, name)(features=40, classes=10)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(3, 40)).shape == (3, 10)


@pytest.mark.parametrize("name", ["Linear", "MLP", "CNN", "GRU"])
def test_models_take_any_length(name):
    model = getattr(classifiers, name)(features=64, classes=7)
    assert model(torch.zeros(2, 64)).shape == (2, 7)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_the_same_global_batches(world_size, shuffle):
    def batches(rank, size, shares):
        sampler = Batches(range(103), 10, shuffle, 5, rank, size, shares)
        sampler.set_epoch(3)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        return batches

    alone = batches(0, 1, "any")
    assert sorted(i for batch in alone for i in batch) == list(range(103))
    exact = [batches(rank, world_size, "any") for rank in range(world_size)]
    for number, batch in enumerate(alone):
        together = [i for ranks in exact for i in (ranks[number] if number < len(ranks) else [])]
        assert sorted(together) == sorted(batch)
    equal = [batches(rank, world_size, "equal") for rank in range(world_size)]
    for parts in zip(*equal, strict=True):
        assert len({len(part) for part in parts}) == 1  # every rank has as many


def test_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        sampler = Batches(range(50), 50, True, seed=seed)
        sampler.set_epoch(epoch)
        return next(iter(sampler))

    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(s, e)) for s in (0, 1) for e in (0, 1)}) == 4
    assert order(0, 1) != order(1, 0)


def test_windows_cover_every_character_once():
    ids = torch.arange(1, 131)
    windows = Windows(ids, block=16, stride=16)
    x, y = windows[list(range(len(windows)))]
    assert torch.equal(y[y != IGNORED], ids[1:])
    assert torch.equal(x.flatten()[: len(ids)], ids)
    train = Windows(ids, block=16, stride=1)
    assert len(train) == 130 - 16
    x, y = train[[0, len(train) - 1]]
    assert torch.equal(x[1], ids[-17:-1])
    assert torch.equal(y[1], ids[-16:])


def test_char_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, that is the question\n" * 50, "utf-8")
    data = CharText(str(path), block=8)
    assert data.vocab_size == len(set(path.read_text("utf-8")))
    assert not data.test_dataloader()
    for bad, message in [(None, "data.path must be given"), (str(tmp_path), "must be a text file")]:
        with pytest.raises(UsageError, match=message):
            CharText(bad)
    with pytest.raises(UsageError, match="too few"):
        CharText(str(path), block=5000)


def test_gpt_is_causal_tied_and_starts_near_uniform():
    torch.manual_seed(0)
    model = GPT(vocab_size=65, block=16, layers=2, heads=2, width=32)
    assert model.head.weight is model.token.weight
    x = torch.randint(65, (2, 16))
    changed = x.clone()
    changed[:, 9] = (x[:, 9] + 1) % 65
    a, b = model(x), model(changed)
    assert torch.equal(a[:, :9], b[:, :9])
    assert not torch.equal(a[:, 9:], b[:, 9:])
    targets = torch.randint(65, (2 * 16,))
    loss = torch.nn.functional.cross_entropy(a.flatten(0, 1), targets)
    assert loss.item() == pytest.approx(math.log(65), rel=0.05)
    with pytest.raises(UsageError, match="multiple of"):
        GPT(65, 16, width=30, heads=4)


def test_accuracy_is_torchmetrics_of_all_samples_to_the_bit():
    from torchmetrics.classification import MulticlassAccuracy

    ours, theirs = classifiers.Accuracy(), MulticlassAccuracy(7, average="micro")
    for size in (24, 24, 11):
        logits, y = torch.randn(size, 7), torch.randint(7, (size,))
        ours.update(logits, y)
        theirs.update(logits, y)
    assert 0 < ours.compute() < 1
    assert torch.equal(ours.compute(), theirs.compute())
    assert ours.higher_is_better is theirs.higher_is_better


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_scores_are_torchmetrics_to_the_bit(seed, dtype):
    torch.manual_seed(seed)
    loss, of_loss = classifiers.Mean(), MeanMetric()
    acc, of_acc = classifiers.Accuracy(), classifiers.Accuracy()
    for count in torch.randint(0, 30, (20,)).tolist():
        logits, y = torch.randn(count, 4, dtype=dtype), torch.randint(4, (count,))
        value = cross_entropy(logits, y)  # NaN of no samples
        value = value if torch.rand(()) < 0.8 else value * math.inf
        loss.add(value.requires_grad_(), count)
        of_loss.update(value, count)
        acc.add_batch(logits, y)
        of_acc.update(logits, y)
        acc.compute()  # what it keeps is not of earlier batches
    for ours, theirs in ((loss, of_loss), (acc, of_acc)):
        assert ours._update_count == theirs._update_count
        assert torch.equal(ours.compute().nan_to_num(7), theirs.compute().nan_to_num(7))
    for name in ("mean_value", "weight"):
        assert getattr(loss, name).equal(getattr(of_loss, name))
        assert not getattr(loss, name).requires_grad
    loss.reset()
    assert loss.mean_value == loss.weight == 0
