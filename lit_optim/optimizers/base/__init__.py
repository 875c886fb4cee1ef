"""What the algorithms are built on: constructors, the step, executors, param groups, options.

This is the vocabulary of a file of `optimizers`. `types`, `linalg`, and the bases of few optimizers
(`matrixwise`, `lr_estimate`, `decay_by_name`) complete it.
"""

from lit_optim.kernels.precision import State
from lit_optim.optimizers.base.declared import option, setting
from lit_optim.optimizers.base.elementwise import Elementwise
from lit_optim.optimizers.base.factored import Factored, mean_rows, mean_squares
from lit_optim.optimizers.base.groups import require
from lit_optim.optimizers.base.linalg import frobenius
from lit_optim.optimizers.base.newton_schulz import Coefficients, orthogonalize
from lit_optim.optimizers.base.optimizer import zeros_for
from lit_optim.optimizers.base.scalars import bias_corrections, peak_lr, power
from lit_optim.optimizers.base.schedule_free import ScheduleFree
from lit_optim.optimizers.base.tensorwise import Tensorwise
from lit_optim.optimizers.base.torch_own import TorchOptimizer
from lit_optim.optimizers.base.torch_step import TorchStep
from lit_optim.optimizers.base.types import Group, Scalars, Update, Value

__all__ = [
    "Coefficients",
    "Elementwise",
    "Factored",
    "Group",
    "Scalars",
    "ScheduleFree",
    "State",
    "Tensorwise",
    "TorchOptimizer",
    "TorchStep",
    "Update",
    "Value",
    "bias_corrections",
    "frobenius",
    "mean_rows",
    "mean_squares",
    "option",
    "orthogonalize",
    "peak_lr",
    "power",
    "require",
    "setting",
    "zeros_for",
]
