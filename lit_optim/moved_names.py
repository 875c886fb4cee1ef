"""Old dotted names and where they stand now.

A configuration, a checkpoint or a user's code may hold a name from before a module moved; it
keeps its meaning. Nothing inside of the project uses an old name.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: A module or one name of a module, and its place now. A module whose names went to several places
#: has an entry for each of them.
MOVED: dict[str, str] = {
    "lit_optim.optimizers.elementwise.Elementwise": (
        "lit_optim.optimizers.base.elementwise.Elementwise"
    ),
    "lit_optim.optimizers.elementwise.State": "lit_optim.optimizers.base.elementwise.State",
    "lit_optim.optimizers.walk.Walk": "lit_optim.optimizers.base.optimizer.OptimizerBase",
    "lit_optim.schedules.composed.Chained": "lit_optim.schedules.combinators.Chained",
    "lit_optim.schedules.composed.ChainedCurve": "lit_optim.schedules.combinators.ChainedCurve",
    "lit_optim.schedules.composed.Sequential": "lit_optim.schedules.combinators.Sequential",
    "lit_optim.schedules.composed.SequentialCurve": (
        "lit_optim.schedules.combinators.SequentialCurve"
    ),
    "lit_optim.schedules.composed.chained": "lit_optim.schedules.combinators.chained",
    "lit_optim.schedules.composed.sequential": "lit_optim.schedules.combinators.sequential",
    "lit_optim.schedules.composed.find_schedule": "lit_optim.schedules.registry.find_schedule",
    "lit_optim.schedules.composed.ChainedScheduler": (
        "lit_optim.compat.torch_schedules.ChainedScheduler"
    ),
    "lit_optim.schedules.composed.SequentialLR": "lit_optim.compat.torch_schedules.SequentialLR",
    "lit_optim.schedules.expressions.Formula": "lit_optim.schedules.formula.Formula",
    "lit_optim.schedules.expressions.Lambda": (
        "lit_optim.schedules.formula_schedules.FormulaSchedule"
    ),
    "lit_optim.schedules.followers.Greedy": "lit_optim.schedules.metric_schedules.Greedy",
    "lit_optim.schedules.followers.Plateau": "lit_optim.schedules.metric_schedules.Plateau",
    "lit_optim.schedules.followers.greedy": "lit_optim.schedules.metric_schedules.greedy",
    "lit_optim.schedules.followers.plateau": "lit_optim.schedules.metric_schedules.plateau",
    "lit_optim.schedules.followers.ReduceLROnPlateau": (
        "lit_optim.compat.torch_schedules.ReduceLROnPlateau"
    ),
    "lit_optim.schedules.formulas.lambda_": "lit_optim.schedules.formula_schedules.lambda_",
    "lit_optim.schedules.formulas.multiplicative": (
        "lit_optim.schedules.formula_schedules.multiplicative"
    ),
    "lit_optim.schedules.formulas.LambdaLR": "lit_optim.compat.torch_schedules.LambdaLR",
    "lit_optim.schedules.formulas.MultiplicativeLR": (
        "lit_optim.compat.torch_schedules.MultiplicativeLR"
    ),
    "lit_optim.schedules.items.Absolute": "lit_optim.schedules.phase_spec.AbsoluteLevel",
    "lit_optim.schedules.items.Free": "lit_optim.schedules.phase_spec.FormulaSegment",
    "lit_optim.schedules.items.Geometric": "lit_optim.schedules.phase_spec.Geometric",
    "lit_optim.schedules.items.InverseSqrt": "lit_optim.schedules.phase_spec.InverseSqrt",
    "lit_optim.schedules.items.Phase": "lit_optim.schedules.phase_spec.Phase",
    "lit_optim.schedules.items.Repeat": "lit_optim.schedules.phase_spec.Repeat",
    "lit_optim.schedules.moved.Moving": (
        "lit_optim.schedules.hyperparameter_schedules.HyperparameterSchedule"
    ),
    "lit_optim.schedules.moved.movings": (
        "lit_optim.schedules.hyperparameter_schedules.parse_hyperparameter_schedules"
    ),
    "lit_optim.schedules.moved.Moved": (
        "lit_optim.schedules.scheduled_hyperparameter.ScheduledHyperparameter"
    ),
    "lit_optim.schedules.phases": "lit_optim.schedules.phase_schedule",
    "lit_optim.schedules.pieces.PhasesCurve": "lit_optim.schedules.phase_curve.PhasesCurve",
    "lit_optim.schedules.schedule.Schedule": "lit_optim.schedules.core.Schedule",
    "lit_optim.schedules.schedule.Curve": "lit_optim.schedules.curve.Curve",
    "lit_optim.schedules.schedule.Follow": "lit_optim.schedules.curve.MonitoredMetric",
    "lit_optim.schedules.torch_names": "lit_optim.compat.torch_schedules",
    "lit_optim.schedules.transformers_names": "lit_optim.compat.transformers_schedules",
    "lit_optim.schedules.written": "lit_optim.schedules.phase_parser",
    "lit_optim.lightning.averaged.Averaged": (
        "lit_optim.callbacks.averaged_weights.AveragedWeights"
    ),
    "lit_optim.lightning.callbacks.LearningRates": (
        "lit_optim.callbacks.learning_rates.LearningRates"
    ),
    "lit_optim.lightning.callbacks.MetricHistory": (
        "lit_optim.callbacks.metric_history.MetricHistory"
    ),
    "lit_optim.lightning.checkpoint": "lit_optim.callbacks.checkpoint",
    "lit_optim.lightning.files": "lit_optim.checkpoints.files",
    "lit_optim.lightning.full_batch": "lit_optim.callbacks.full_batch",
    "lit_optim.lightning.health": "lit_optim.callbacks.health",
    "lit_optim.lightning.lengths": "lit_optim.training.lengths",
    "lit_optim.lightning.making": "lit_optim.making",
    "lit_optim.lightning.monitor.MonitorCheck": "lit_optim.callbacks.monitor_check.MonitorCheck",
    "lit_optim.lightning.nonfinite": "lit_optim.callbacks.nonfinite",
    "lit_optim.lightning.plain": "lit_optim.checkpoints.plain",
    "lit_optim.lightning.progress": "lit_optim.callbacks.progress",
    "lit_optim.lightning.resume.Resumable": "lit_optim.callbacks.resumable.Resumable",
    "lit_optim.callbacks.routing.HEADER": ("lit_optim.callbacks.parameter_table.HEADER"),
    "lit_optim.lightning.routing.HEADER": ("lit_optim.callbacks.parameter_table.HEADER"),
    "lit_optim.callbacks.routing.Routing": ("lit_optim.callbacks.parameter_table.ParameterTable"),
    "lit_optim.lightning.routing.Routing": ("lit_optim.callbacks.parameter_table.ParameterTable"),
    "lit_optim.callbacks.routing.count_parameters": (
        "lit_optim.callbacks.parameter_table.count_parameters"
    ),
    "lit_optim.lightning.routing.count_parameters": (
        "lit_optim.callbacks.parameter_table.count_parameters"
    ),
    "lit_optim.callbacks.routing.format_bytes": (
        "lit_optim.callbacks.parameter_table.format_bytes"
    ),
    "lit_optim.lightning.routing.format_bytes": (
        "lit_optim.callbacks.parameter_table.format_bytes"
    ),
    "lit_optim.callbacks.routing.routing": ("lit_optim.callbacks.parameter_table.parameter_rows"),
    "lit_optim.lightning.routing.routing": ("lit_optim.callbacks.parameter_table.parameter_rows"),
    "lit_optim.callbacks.routing.state_bytes": ("lit_optim.callbacks.parameter_table.state_bytes"),
    "lit_optim.lightning.routing.state_bytes": ("lit_optim.callbacks.parameter_table.state_bytes"),
    "lit_optim.lightning.signals": "lit_optim.callbacks.signals",
    "lit_optim.lightning.summary": "lit_optim.callbacks.summary",
    "lit_optim.lightning.threads": "lit_optim.callbacks.threads",
    "lit_optim.lightning.weights": "lit_optim.checkpoints.weights",
    "lit_optim.tensorboard": "lit_optim.programs",
}

#: A key of the configuration, and its name now.
MOVED_KEYS = {"scheduler.ticks": "scheduler.step_alignment", "threads": "trainer.threads"}


def current_name(name: str) -> str:
    """The dotted name under which `name` is defined today."""
    if name in MOVED:
        return MOVED[name]
    module, _, rest = name.rpartition(".")
    return f"{MOVED[module]}.{rest}" if module in MOVED else name


def _is_module(name: str) -> bool:
    """Whether a name is that of a module, not of something in one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what it would be in is no package
        return False


class _OldModule(ModuleType):
    """A module whose names went to several places: each is looked up where it is now."""

    def __getattr__(self, name: str) -> Any:
        old = f"{self.__name__}.{name}"
        new = current_name(old)
        if new == old:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, _, attribute = new.rpartition(".")
        return getattr(import_module(module), attribute)


class _OldNames:
    """Lets `import` find the modules of `MOVED`; a finder and a loader.

    Their base classes in `importlib.abc` would take longer to import than the rest of lit_optim.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        has_names = any(old.rpartition(".")[0] == fullname for old in MOVED)
        if has_names or (fullname in MOVED and _is_module(MOVED[fullname])):
            loader: Any = self
            return ModuleSpec(fullname, loader, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Put the new module in place of an old one that moved as a whole."""
        if module.__name__ in MOVED:
            sys.modules[module.__name__] = import_module(MOVED[module.__name__])


def keep_old_names() -> None:
    """Make old module paths importable, after everything that exists."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
