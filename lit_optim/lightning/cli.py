"""`LitOptimCLI`: Lightning's CLI with our optimizers and schedules by their names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from types import MethodType
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch.optim import Optimizer

from lit_optim import lr_schedulers
from lit_optim.errors import UsageError, first_line
from lit_optim.hyperparameters import check
from lit_optim.lightning.choices import ParamGroups
from lit_optim.lightning.cli_parser import NAMES, LitOptimArgumentParser, add_optimizer_arguments
from lit_optim.lightning.configure import configure_optimizers
from lit_optim.lightning.torch_schedulers import as_lightning_expects
from lit_optim.optimizers.base.optimizer import OptimizerBase
from lit_optim.schedules.core import Schedule
from lit_optim.schedules.registry import functions_by_name
from lit_optim.wrappers import Wrapped, Wrapper


class LitOptimCLI(LightningCLI):
    r"""LightningCLI that chooses the optimizer and the schedule of any LightningModule.

        LitOptimCLI(Net, Data)

        python main.py fit --optimizer adamw --optimizer.lr 3e-4 \
            --schedule cosine_warmup --schedule.warmup 5%

    `--optimizer`, `--schedule`, `--param_groups` and `--wrapper` take our names or dotted ones. The
    module's optimizer is then that of `lit_optim.configure_optimizers`; its own
    `configure_optimizers` is used without `--optimizer`, and overridden with it, as by
    LightningCLI. Mistakes end in one line, as those that jsonargparse finds.

    Args:
        args: those of LightningCLI.
        auto_configure_optimizers: whether there are these arguments.
        kwargs: those of LightningCLI.
    """

    def __init__(self, *args: Any, auto_configure_optimizers: bool = True, **kwargs: Any) -> None:
        self.chooses_optimizers = auto_configure_optimizers
        kwargs.setdefault("parser_class", LitOptimArgumentParser)
        kwargs["auto_configure_optimizers"] = False  # they would be LightningCLI's
        try:
            super().__init__(*args, **kwargs)
        except UsageError as error:
            parser = self._parser(getattr(self, "subcommand", None))
            parser.error(first_line(error), error)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of LightningCLI, and ours."""
        super().add_core_arguments_to_parser(parser)
        if self.chooses_optimizers:
            add_optimizer_arguments(parser)

    def instantiate_classes(self) -> None:
        """Instantiate the classes, and give the module its optimizer."""
        super().instantiate_classes()
        if self.chooses_optimizers:
            self._choose_optimizer()

    def _choose_optimizer(self) -> None:
        chosen = {key: self._get(self.config_init, key) for key in (*NAMES, "horizon")}
        if chosen["optimizer"] is None:
            if other := [key for key in NAMES if chosen[key] is not None]:
                raise UsageError(f"--{other[0]} is for the --optimizer, which is not given")
            is_missing = not is_overridden("configure_optimizers", self.model)
            if is_missing and self.subcommand == "fit":
                raise UsageError(
                    f"{type(self.model).__name__} has no configure_optimizers: choose its "
                    "optimizer, such as --optimizer adamw"
                )
            return
        if is_overridden("configure_optimizers", self.model):
            rank_zero_warn(
                f"`{type(self.model).__name__}.configure_optimizers` will be overridden by "
                f"`{type(self).__name__}.configure_optimizers`."
            )
        if isinstance(divide := chosen["param_groups"], ParamGroups):
            _explain("--param_groups", divide.check)
        configure = partial(
            _configure,
            optimizer=_make_optimizer(chosen["optimizer"], chosen["wrapper"]),
            schedule=_build_schedule(chosen["schedule"]),
            param_groups=chosen["param_groups"],
            horizon=chosen["horizon"],
            finish=type(self).configure_optimizers,
        )
        update_wrapper(configure, _configure)  # Lightning looks for the attributes of a function
        self.model.configure_optimizers = MethodType(configure, self.model)

    @staticmethod
    def configure_optimizers(
        lightning_module: LightningModule, optimizer: Optimizer, lr_scheduler: Any = None
    ) -> Any:
        """Return what the module's `configure_optimizers` returns; may be overridden.

        Args:
            lightning_module: the module.
            optimizer: with its param groups, and wrapped.
            lr_scheduler: a `ScheduledLR` over the run, or None.
        """
        if lr_scheduler is None:
            return {"optimizer": optimizer}
        config = as_lightning_expects(lr_scheduler, {}, lightning_module)
        return {"optimizer": optimizer, "lr_scheduler": config}


def _configure(
    module: LightningModule, finish: Callable[..., Any], schedule: Schedule | None, **chosen: Any
) -> Any:
    made = configure_optimizers(module, scheduler=schedule, **chosen)
    scheduler = made["lr_scheduler"]["scheduler"] if "lr_scheduler" in made else None
    return finish(module, made["optimizer"], scheduler)


def _make_optimizer(make: Any, wrap: Any) -> Any:
    """The factories that jsonargparse has made, as one; the arguments of ours are checked."""
    if issubclass(kind := _class_of(make), Wrapper):
        name = kind.__name__
        raise UsageError(f"--optimizer: {name} wraps one; choose it by --wrapper {name.lower()}")
    make = _check_factory("--optimizer", make)
    return make if wrap is None else Wrapped(make, _check_factory("--wrapper", wrap))


def _check_factory(key: str, factory: Any) -> Any:
    """The factory, as a partial of its class if it has one."""
    kind = _class_of(factory)
    if issubclass(kind, OptimizerBase | Wrapper):
        _explain(key, check, kind.__init__, factory.keywords)
    return factory if kind is object else partial(kind, **factory.keywords)


def _class_of(factory: Any) -> type:
    """The class that a partial of jsonargparse has as an argument; `object` of anything else."""
    return next((one for one in getattr(factory, "args", ()) if isinstance(one, type)), object)


def _build_schedule(chosen: Any) -> Schedule | None:
    if chosen is None:
        return None
    module, _, name = chosen["class_path"].rpartition(".")
    if module != lr_schedulers.__name__:
        raise UsageError(f"--schedule {chosen['class_path']}: must be of lit_optim.lr_schedulers")
    schedule: Schedule | None = _explain(
        "--schedule", functions_by_name()[name], **chosen.get("init_args", {})
    )
    return schedule


def _explain(key: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, and name the argument of the command line in its error."""
    try:
        return function(*args, **kwargs)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None
