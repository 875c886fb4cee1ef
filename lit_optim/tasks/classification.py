"""Two classification tasks: MNIST-1D, which is generated locally, and scikit-learn's digits."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from lit_optim.system import replace_file
from lit_optim.tasks.data import Pairs, TensorTask
from lit_optim.temporary import remove_leftovers, temporary_beside

Arrays = dict[str, np.ndarray]


class Classification(TensorTask):
    """Vectors with classes; the end of the training set is held out for validation.

    Args:
        batch_size: samples per batch over all devices.
        val_share: the share of the training set that is held out; 0 trains on all of it.
        shuffle: whether each epoch has a new order of the training data.
        seed: of that order.
    """

    features: int
    classes: int = 10

    def __init__(
        self,
        batch_size: Annotated[int, "> 0"] = 24,
        val_share: Annotated[float, "in [0, 1)"] = 0.1,
        shuffle: bool = True,
        seed: Annotated[int, ">= 0"] = 0,
    ) -> None:
        super().__init__(batch_size, shuffle, seed)
        self.val_share = val_share

    def arrays(self) -> Arrays:
        """Return `x` and `y` for training, `x_test` and `y_test`."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        arrays = self.arrays()
        x = torch.as_tensor(arrays["x"], dtype=torch.float32)
        y = torch.as_tensor(arrays["y"], dtype=torch.int64)
        kept = len(x) - round(len(x) * self.val_share)
        self._train, self._val = Pairs(x[:kept], y[:kept]), Pairs(x[kept:], y[kept:])
        self._test = Pairs(
            torch.as_tensor(arrays["x_test"], dtype=torch.float32),
            torch.as_tensor(arrays["y_test"], dtype=torch.int64),
        )

    def train_set(self) -> Pairs:
        return self._train

    def val_set(self) -> Pairs:
        return self._val

    def test_set(self) -> Pairs:
        return self._test


class Mnist1d(Classification):
    """Ten classes of noisy, shifted curves of 40 points: 4,000 for training, 1,000 for testing.

    Greydanus & Kobak 2024, Scaling Down Deep Learning with MNIST-1D, arXiv:2011.14439. Generated
    in seconds by the authors' package, which returns the data of the paper, and cached in
    `$XDG_CACHE_HOME/lit_optim` (or `~/.cache/lit_optim`).
    """

    features = 40

    def prepare_data(self) -> None:
        self.arrays()

    def arrays(self) -> Arrays:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(home) / "lit_optim" / "mnist1d.npz"
        remove_leftovers(path.parent)
        try:
            with np.load(path) as cached:
                return dict(cached)
        except (OSError, ValueError, EOFError):  # missing or broken
            arrays = _generate()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_beside(path)  # several processes may write it at the same time
            try:
                with temporary.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                replace_file(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError:  # without a cache they are generated again
            pass
        return arrays


def _generate() -> Arrays:
    from mnist1d.data import get_dataset_args, make_dataset  # slow: imports matplotlib

    states = random.getstate(), np.random.get_state()
    try:
        dataset = make_dataset(get_dataset_args())  # seeds the global generators
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return {name: dataset[name] for name in ("x", "y", "x_test", "y_test")}


class Digits(Classification):
    """Handwritten digits of 8 x 8 points: the first 898 for training, the other 899 for testing.

    scikit-learn's copy of Alpaydin & Kaynak 1998, split as in its example "Recognizing
    hand-written digits", where an SVC reaches 0.969.
    """

    features = 64

    def arrays(self) -> Arrays:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y, half = digits.data / 16, digits.target, len(digits.data) // 2
        return {"x": x[:half], "y": y[:half], "x_test": x[half:], "y_test": y[half:]}
