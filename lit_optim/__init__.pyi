# Written by scripts/stubs.py.
from types import ModuleType

import lit_optim.param_groups as _groups
from lit_optim import hf as hf
from lit_optim import lr_schedulers as lr_schedulers
from lit_optim import schedules as schedules
from lit_optim.errors import UsageError as UsageError
from lit_optim.lightning.cli import LitOptimCLI as LitOptimCLI
from lit_optim.lightning.configure import OptimizerMixin as OptimizerMixin
from lit_optim.lightning.configure import configure_optimizers as configure_optimizers
from lit_optim.optimizers.adadelta import Adadelta as Adadelta
from lit_optim.optimizers.adafactor import Adafactor as Adafactor
from lit_optim.optimizers.adafactor_hf import AdafactorHF as AdafactorHF
from lit_optim.optimizers.adagrad import Adagrad as Adagrad
from lit_optim.optimizers.adam import Adam as Adam
from lit_optim.optimizers.adam_weight_decay import AdamWeightDecay as AdamWeightDecay
from lit_optim.optimizers.adamax import Adamax as Adamax
from lit_optim.optimizers.adamw import AdamW as AdamW
from lit_optim.optimizers.adamw_hf import AdamWHF as AdamWHF
from lit_optim.optimizers.adan import Adan as Adan
from lit_optim.optimizers.ademamix import AdEMAMix as AdEMAMix
from lit_optim.optimizers.adopt import Adopt as Adopt
from lit_optim.optimizers.asgd import ASGD as ASGD
from lit_optim.optimizers.lamb import Lamb as Lamb
from lit_optim.optimizers.laprop import LaProp as LaProp
from lit_optim.optimizers.lars import Lars as Lars
from lit_optim.optimizers.lbfgs import LBFGS as LBFGS
from lit_optim.optimizers.lion import Lion as Lion
from lit_optim.optimizers.mars import Mars as Mars
from lit_optim.optimizers.momentum import Momentum as Momentum
from lit_optim.optimizers.muon import Muon as Muon
from lit_optim.optimizers.muon_torch import MuonTorch as MuonTorch
from lit_optim.optimizers.nadam import NAdam as NAdam
from lit_optim.optimizers.nadamw import NAdamW as NAdamW
from lit_optim.optimizers.nag import NAG as NAG
from lit_optim.optimizers.normuon import NorMuon as NorMuon
from lit_optim.optimizers.prodigy import Prodigy as Prodigy
from lit_optim.optimizers.radam import RAdam as RAdam
from lit_optim.optimizers.rmsprop import RMSprop as RMSprop
from lit_optim.optimizers.rprop import Rprop as Rprop
from lit_optim.optimizers.schedule_free_adamw import ScheduleFreeAdamW as ScheduleFreeAdamW
from lit_optim.optimizers.schedule_free_sgd import ScheduleFreeSGD as ScheduleFreeSGD
from lit_optim.optimizers.scion import Scion as Scion
from lit_optim.optimizers.sgd import SGD as SGD
from lit_optim.optimizers.shampoo import Shampoo as Shampoo
from lit_optim.optimizers.signum import Signum as Signum
from lit_optim.optimizers.soap import SOAP as SOAP
from lit_optim.optimizers.sparse_adam import SparseAdam as SparseAdam
from lit_optim.optimizers.stable_adamw import StableAdamW as StableAdamW
from lit_optim.release import release_gradients as release_gradients
from lit_optim.schedules.adapter import ScheduledLR as ScheduledLR
from lit_optim.schedules.core import Schedule as Schedule
from lit_optim.schedules.scheduling import schedule as schedule
from lit_optim.wrappers.ema import Ema as Ema
from lit_optim.wrappers.lookahead import Lookahead as Lookahead
from lit_optim.wrappers.sam import Sam as Sam

class _ParamGroups:
    __call__ = staticmethod(_groups.divide_parameters)
    MakeGroups = _groups.MakeGroups
    ModuleGroups = _groups.ModuleGroups
    ParameterInfo = _groups.ParameterInfo
    Role = _groups.Role
    by_role = staticmethod(_groups.by_role)
    by_rules = staticmethod(_groups.by_rules)
    describe_parameters = staticmethod(_groups.describe_parameters)
    divide_parameters = staticmethod(_groups.divide_parameters)
    layer_decay = staticmethod(_groups.layer_decay)
    make_group = staticmethod(_groups.make_group)
    no_decay = staticmethod(_groups.no_decay)
    read_rule_settings = staticmethod(_groups.read_rule_settings)
    roles = staticmethod(_groups.roles)
    single = staticmethod(_groups.single)
    snapshot_groups = staticmethod(_groups.snapshot_groups)
    transformers = staticmethod(_groups.transformers)
    decay: ModuleType
    describe: ModuleType
    layers: ModuleType
    module_groups: ModuleType
    orientation: ModuleType
    rules: ModuleType
    tree: ModuleType

param_groups: _ParamGroups

__version__: str

__all__ = [
    "ASGD",
    "AdEMAMix",
    "Adadelta",
    "Adafactor",
    "AdafactorHF",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdamWHF",
    "AdamWeightDecay",
    "Adamax",
    "Adan",
    "Adopt",
    "Ema",
    "LBFGS",
    "LaProp",
    "Lamb",
    "Lars",
    "Lion",
    "LitOptimCLI",
    "Lookahead",
    "Mars",
    "Momentum",
    "Muon",
    "MuonTorch",
    "NAG",
    "NAdam",
    "NAdamW",
    "NorMuon",
    "OptimizerMixin",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SOAP",
    "Sam",
    "Schedule",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "ScheduledLR",
    "Scion",
    "Shampoo",
    "Signum",
    "SparseAdam",
    "StableAdamW",
    "UsageError",
    "configure_optimizers",
    "hf",
    "lr_schedulers",
    "param_groups",
    "release_gradients",
    "schedule",
    "schedules",
]
