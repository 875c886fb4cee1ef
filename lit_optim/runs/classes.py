"""The classes that a configuration names, imported and checked before anything is built."""

from __future__ import annotations

import inspect
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer

from lit_optim.config.targets import TARGET, check_arguments, check_required, locate
from lit_optim.errors import UsageError
from lit_optim.lightning_classes import package_of
from lit_optim.signatures import inspect_signature


def locate_class(path: str, node: DictConfig, kind: type) -> type:
    """Import the class of a node and check its kind; nothing is built yet.

    Raises:
        UsageError: it is not such a class, or abstract.
    """
    found = locate(path, node[TARGET])
    if not (inspect.isclass(found) and issubclass(found, kind)):
        package = package_of(found) if inspect.isclass(found) else None
        why = ""
        if package not in (None, package_of(kind)):
            why = f" of lightning.pytorch, but a class of {package}: import lightning.pytorch there"
        what = f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
        raise UsageError(f"{path}.{TARGET}={node[TARGET]} is not {what}{why}")
    if inspect.isabstract(found):
        raise UsageError(
            f"{path}.{TARGET}={node[TARGET]} is abstract: name a class derived from it"
        )
    return found


def check_step_method(target: str, optimizer: type) -> None:
    """Check that an optimizer has a `step`, and one that Lightning can call.

    Raises:
        UsageError: it has none, or its `step` takes no closure.
    """
    step = optimizer.step  # type: ignore[attr-defined]
    if step is Optimizer.step:
        raise UsageError(f"optimizer.{TARGET}={target} is abstract: it has no step of its own")
    if not {"closure", "kwargs"} & set(inspect.signature(step).parameters):
        raise UsageError(
            f"optimizer.{TARGET}={target}: its step takes no closure, which Lightning gives it"
        )


def locate_configured_class(name: str, cfg: DictConfig) -> type:
    """Import the class of the model or the data, and check the arguments that it is given.

    Args:
        name: `model` or `data`.
        cfg: the configuration.

    Raises:
        UsageError: it is not such a class, or an argument is wrong.
    """
    found = locate_class(
        name, cfg[name], LightningModule if name == "model" else LightningDataModule
    )
    signature, node = inspect_signature(found), to_dict(cfg[name])
    check_arguments(name, node, signature)
    if name == "data":
        check_required(name, node, signature, given=set())
    return found


def to_dict(node: DictConfig) -> dict[str, Any]:
    """A node as a plain mapping, interpolations resolved."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
