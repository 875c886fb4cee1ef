# Written by scripts/stubs.py.
from lit_optim.compat.torch_schedules import ChainedScheduler as ChainedScheduler
from lit_optim.compat.torch_schedules import ConstantLR as ConstantLR
from lit_optim.compat.torch_schedules import CosineAnnealingLR as CosineAnnealingLR
from lit_optim.compat.torch_schedules import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from lit_optim.compat.torch_schedules import CyclicLR as CyclicLR
from lit_optim.compat.torch_schedules import ExponentialLR as ExponentialLR
from lit_optim.compat.torch_schedules import LambdaLR as LambdaLR
from lit_optim.compat.torch_schedules import LinearLR as LinearLR
from lit_optim.compat.torch_schedules import MultiStepLR as MultiStepLR
from lit_optim.compat.torch_schedules import MultiplicativeLR as MultiplicativeLR
from lit_optim.compat.torch_schedules import OneCycleLR as OneCycleLR
from lit_optim.compat.torch_schedules import PolynomialLR as PolynomialLR
from lit_optim.compat.torch_schedules import ReduceLROnPlateau as ReduceLROnPlateau
from lit_optim.compat.torch_schedules import SequentialLR as SequentialLR
from lit_optim.compat.torch_schedules import StepLR as StepLR
from lit_optim.compat.transformers_schedules import constant_with_warmup as constant_with_warmup
from lit_optim.compat.transformers_schedules import cosine_warmup_with_min_lr as cosine_warmup_with_min_lr
from lit_optim.compat.transformers_schedules import cosine_with_min_lr as cosine_with_min_lr
from lit_optim.compat.transformers_schedules import cosine_with_restarts as cosine_with_restarts
from lit_optim.compat.transformers_schedules import warmup_stable_decay as warmup_stable_decay
from lit_optim.schedules.adapter import ScheduledLR as ScheduledLR
from lit_optim.schedules.combinators import chained as chained
from lit_optim.schedules.combinators import sequential as sequential
from lit_optim.schedules.core import Schedule as Schedule
from lit_optim.schedules.decays import cosine_inf as cosine_inf
from lit_optim.schedules.decays import noam as noam
from lit_optim.schedules.decays import power_decay as power_decay
from lit_optim.schedules.decays import powercool as powercool
from lit_optim.schedules.decays import rex as rex
from lit_optim.schedules.formula_schedules import lambda_ as lambda_
from lit_optim.schedules.formula_schedules import multiplicative as multiplicative
from lit_optim.schedules.library import constant as constant
from lit_optim.schedules.library import constant_warmup as constant_warmup
from lit_optim.schedules.library import cosine as cosine
from lit_optim.schedules.library import cosine_min_lr as cosine_min_lr
from lit_optim.schedules.library import cosine_restarts as cosine_restarts
from lit_optim.schedules.library import cosine_warmup as cosine_warmup
from lit_optim.schedules.library import cyclic as cyclic
from lit_optim.schedules.library import exponential as exponential
from lit_optim.schedules.library import inverse_sqrt as inverse_sqrt
from lit_optim.schedules.library import linear as linear
from lit_optim.schedules.library import linear_warmup as linear_warmup
from lit_optim.schedules.library import multistep as multistep
from lit_optim.schedules.library import none as none
from lit_optim.schedules.library import one_cycle as one_cycle
from lit_optim.schedules.library import polynomial as polynomial
from lit_optim.schedules.library import step as step
from lit_optim.schedules.library import wsd as wsd
from lit_optim.schedules.metric_schedules import greedy as greedy
from lit_optim.schedules.metric_schedules import plateau as plateau
from lit_optim.schedules.phase_parser import phases as phases

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Schedule",
    "ScheduledLR",
    "SequentialLR",
    "StepLR",
    "chained",
    "constant",
    "constant_warmup",
    "constant_with_warmup",
    "cosine",
    "cosine_inf",
    "cosine_min_lr",
    "cosine_restarts",
    "cosine_warmup",
    "cosine_warmup_with_min_lr",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "cyclic",
    "exponential",
    "greedy",
    "inverse_sqrt",
    "lambda_",
    "linear",
    "linear_warmup",
    "multiplicative",
    "multistep",
    "noam",
    "none",
    "one_cycle",
    "phases",
    "plateau",
    "polynomial",
    "power_decay",
    "powercool",
    "rex",
    "sequential",
    "step",
    "warmup_stable_decay",
    "wsd",
]
