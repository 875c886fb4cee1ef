"""Which layers store their weights as [in, out], where torch's Linear has [out, in]."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

#: Classes that do, by name: GPT-2's layer in transformers and in copies of it.
TRANSPOSED_CLASSES = {"Conv1D"}


def find_transposed(modules: Iterable[nn.Module]) -> set[nn.Module]:
    """Return the layers whose weight is stored as [in, out, ...].

    These are transposed convolutions, and layers whose shapes say so: a weight that is not square,
    with a bias as long as its rows, or with in_features and out_features. Other layers of the same
    class are taken to be alike.
    """
    layers = {layer: _shows_transposed(layer) for layer in modules}
    classes = {_class_of(layer) for layer, shown in layers.items() if shown}
    return {
        layer
        for layer, shown in layers.items()
        if shown or (shown is None and _class_of(layer) in classes)
    }


def _class_of(layer: nn.Module) -> type[nn.Module]:
    return type_before_parametrizations(layer)


def _shows_transposed(layer: nn.Module) -> bool | None:
    """Whether a layer shows that it is transposed; None where its shapes fit both."""
    weight = _stored_weight(layer)
    if weight is None or _class_of(layer) is nn.Linear:
        return False
    if isinstance(layer, _ConvTransposeNd):
        return True
    if weight.ndim != 2:
        return False
    if getattr(layer, "fan_in_fan_out", None) is True or _class_of(layer).__name__ in (
        TRANSPOSED_CLASSES
    ):
        return True
    rows, columns = weight.shape
    if rows == columns:
        return None
    features = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    bias = _own_parameters(layer).get("bias")
    return features == (rows, columns) or (
        features != (columns, rows) and bias is not None and tuple(bias.shape) == (columns,)
    )


def _stored_weight(layer: nn.Module) -> Tensor | None:
    """The weight as it is stored, without computing what parametrizations make of it."""
    own = _own_parameters(layer)
    name = "weight_v" if "weight_v" in own else "weight"  # torch's old weight_norm
    if is_parametrized(layer, "weight"):
        parts = [p for p in layer.parametrizations["weight"].parameters() if p.ndim > 1]  # type: ignore[index, union-attr]
        return parts[-1] if parts else None
    return own.get(name)


def _own_parameters(layer: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters of a layer itself; those of TorchScript's are not in a dict."""
    return dict(layer._parameters.items())
