# Written by scripts/stubs.py.
from collections.abc import Mapping
from collections.abc import Sequence
from lit_optim.schedules.adapter import ScheduledLR
from lit_optim.schedules.core import Schedule
from torch.optim.optimizer import Optimizer
from typing import Any
from typing import Literal

class ChainedScheduler(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[Schedule | Mapping[str, Any]] = ({'name': 'constant_warmup'}, {'name': 'step'}),
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class ConstantLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.3333333333333333,
        total_iters: int | str = 5,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class CosineAnnealingLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int | str | None = None,
        eta_min: float = 0.0,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class CosineAnnealingWarmRestarts(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int | str = '25%',
        T_mult: int = 1,
        eta_min: float = 0.0,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class CyclicLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | None = None,
        max_lr: float | None = None,
        step_size_up: int | str = 2000,
        step_size_down: int | str | None = None,
        mode: Literal['triangular', 'triangular2', 'exp_range'] = 'triangular',
        gamma: float = 1.0,
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class ExponentialLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        gamma: float = 0.999,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class LambdaLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: str = 'lambda epoch: 0.999**epoch',
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class LinearLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 0.3333333333333333,
        end_factor: float = 1.0,
        total_iters: int | str = 5,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class MultiStepLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int | str] = ('50%', '75%'),
        gamma: float = 0.1,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class MultiplicativeLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: str = 'lambda epoch: 0.999',
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class OneCycleLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | None = None,
        total_steps: int | str | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal['cos', 'linear'] = 'cos',
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 10000.0,
        three_phase: bool = False,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class PolynomialLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int | str = 5,
        power: float = 1.0,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class ReduceLROnPlateau(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 0.0001,
        threshold_mode: Literal['rel', 'abs'] = 'rel',
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-08,
        monitor: str | None = None,
        mode: Literal['min', 'max'] | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class SequentialLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[Schedule | Mapping[str, Any]] = ({'name': 'constant_warmup', 'warmup': '10%'}, {'name': 'cosine'}),
        milestones: Sequence[int | str] = ('50%',),
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class StepLR(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int | str = '30%',
        gamma: float = 0.1,
        interval: Literal['step', 'epoch'] = 'step',
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class chained(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        schedules: Sequence[Schedule | Mapping[str, Any]] = ({'name': 'constant_warmup'}, {'name': 'step'}),
        total: int | str | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class constant(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = 0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class constant_warmup(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class constant_with_warmup(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int | float | str = 0,
        num_training_steps: int | str | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = 0,
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_inf(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        hold: int | str = '20%',
        min_lr_ratio: float = 0.1,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_min_lr(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        min_lr_ratio: float | None = None,
        min_lr: float | None = None,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_restarts(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        cycles: int = 4,
        growth: float = 1.0,
        decay: float = 1.0,
        warmup: int | str = '5%',
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_warmup(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_warmup_with_min_lr(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int | float | str = 0,
        num_training_steps: int | str | None = None,
        num_cycles: float = 0.5,
        min_lr: float | None = None,
        min_lr_rate: float | None = None,
        warmup_lr_rate: float | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_with_min_lr(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int | float | str = 0,
        num_training_steps: int | str | None = None,
        num_cycles: float = 0.5,
        min_lr: float | None = None,
        min_lr_rate: float | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cosine_with_restarts(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int | float | str = 0,
        num_training_steps: int | str | None = None,
        num_cycles: int = 1,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class cyclic(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        step_size_up: int | str = '10%',
        step_size_down: int | str | None = None,
        mode: Literal['triangular', 'triangular2', 'exp_range'] = 'triangular',
        gamma: float = 1.0,
        min_lr_ratio: float = 0.1,
        momentum: tuple[float, float] | None = None,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class exponential(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        gamma: float = 0.95,
        every: int | str = '1%',
        warmup: int | str = 0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class greedy(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-06,
        threshold_mode: Literal['rel', 'abs'] = 'abs',
        cooldown: int = 0,
        warmup: int = 0,
        min_lr_ratio: float = 0.01,
        max_lr_ratio: float = 10.0,
        min_lr: float | None = None,
        max_lr: float | None = None,
        eps: float = 1e-08,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
        monitor: str | None = None,
        mode: Literal['min', 'max'] | None = None,
        every: int | str | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class inverse_sqrt(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        timescale: int | str | None = None,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class lambda_(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        expr: str = '0.5*(1+cos(pi*progress))',
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class linear(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = 0,
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class linear_warmup(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class multiplicative(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        expr: str = '0.01**(1/total)',
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class multistep(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Sequence[int | str] = ('50%', '75%'),
        gamma: float = 0.1,
        warmup: int | str = 0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class noam(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        d_model: int | None = None,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class none(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class one_cycle(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '30%',
        start_ratio: float = 0.04,
        end_ratio: float = 4e-06,
        shape: Literal['cosine', 'linear'] = 'cosine',
        three_phase: bool = False,
        momentum: tuple[float, float] | None = (0.85, 0.95),
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class phases(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        phases: Sequence[Mapping[str, Any]] = ({'shape': 'linear', 'from': 0, 'to': 1, 'for': '5%'}, {'shape': 'constant', 'for': '75%'}, {'shape': '1-sqrt', 'to': 0}),
        absolute: bool = False,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class plateau(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 0.0001,
        threshold_mode: Literal['rel', 'abs'] = 'rel',
        cooldown: int = 0,
        min_lr_ratio: float = 0.0,
        min_lr: float | None = None,
        warmup: int | str = 0,
        monitor: str | None = None,
        mode: Literal['min', 'max'] | None = None,
        every: int | str | None = None,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class polynomial(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        power: float = 1.0,
        warmup: int | str = 0,
        min_lr_ratio: float = 0.0,
        min_lr: float | None = None,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class power_decay(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        beta: float = 1.5,
        warmup: int | str = 0,
        cooldown: int | str | None = None,
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class powercool(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        cooldown: int | str = '60%',
        power: float = 1.2,
        warmup: int | str = 0,
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class rex(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = 0,
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class sequential(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        schedules: Sequence[Schedule | Mapping[str, Any]] = ({'name': 'constant_warmup', 'warmup': '10%'}, {'name': 'cosine'}),
        milestones: Sequence[int | str] = ('50%',),
        total: int | str | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class step(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int | str = '30%',
        gamma: float = 0.1,
        warmup: int | str = 0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class warmup_stable_decay(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int | float | str = 0,
        num_decay_steps: int | str = '20%',
        num_training_steps: int | str | None = None,
        num_stable_steps: int | str | None = None,
        warmup_type: Literal['linear', 'cosine', '1-sqrt'] = 'linear',
        decay_type: Literal['linear', 'cosine', '1-sqrt'] = 'cosine',
        min_lr_ratio: float = 0.0,
        num_cycles: float = 0.5,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

class wsd(ScheduledLR):
    def __init__(
        self,
        optimizer: Optimizer,
        warmup: int | str = '5%',
        cooldown: int | str = '20%',
        shape: str = '1-sqrt',
        min_lr_ratio: float = 0.0,
        *,
        total: int | str | None = None,
        step_alignment: Literal['end', 'start', 'both'] = 'end',
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        horizon: Literal['error', 'keep', 'extend'] = 'error',
        last_epoch: int = -1,
    ) -> None: ...

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
