"""The schedules that bear the names of transformers' and torch's, beside these."""

from __future__ import annotations

import transformers.optimization as hf
from torch.optim import lr_scheduler as torchs

from lit_optim.compat import torch_schedules, transformers_schedules
from tests.schedules.counterparts import ABSOLUTE, RISES_AGAIN, Row, one_cycle, triangle, wsd

TRANSFORMERS: dict[str, list[Row]] = {
    "constant_with_warmup": [
        Row(
            lambda o, T, W: hf.get_constant_schedule_with_warmup(o, T + 5),
            lambda T, W: transformers_schedules.constant_with_warmup(num_warmup_steps=T + 5),
        ),
        Row(
            lambda o, T, W: hf.get_constant_schedule_with_warmup(o, W),
            lambda T, W: transformers_schedules.constant_with_warmup(num_warmup_steps=W),
            warmups=True,
            past=3,
        ),
    ],
    "cosine_with_restarts": [
        Row(
            lambda o, T, W, c=c: hf.get_cosine_with_hard_restarts_schedule_with_warmup(
                o, W, T, num_cycles=c
            ),
            lambda T, W, c=c: transformers_schedules.cosine_with_restarts(W, num_cycles=c),
            warmups=True,
            past=3,
        )
        for c in (1, 2, 4)
    ],
    "cosine_with_min_lr": [
        Row(
            lambda o, T, W: hf.get_cosine_with_min_lr_schedule_with_warmup(
                o, W, T, min_lr_rate=0.2, num_cycles=1.5
            ),
            lambda T, W: transformers_schedules.cosine_with_min_lr(
                W, min_lr_rate=0.2, num_cycles=1.5
            ),
            differs="past the end theirs oscillates; ours stays constant",
            warmups=True,
        ),
        Row(
            lambda o, T, W: hf.get_cosine_with_min_lr_schedule_with_warmup(o, W, T, min_lr=1e-3),
            lambda T, W: transformers_schedules.cosine_with_min_lr(W, min_lr=1e-3),
            differs=RISES_AGAIN + "; " + ABSOLUTE,
            first_group=True,
            warmups=True,
        ),
    ],
    "cosine_warmup_with_min_lr": [
        Row(
            lambda o, T, W, rate=rate: hf.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
                o, W, T, min_lr_rate=0.2, warmup_lr_rate=rate
            ),
            lambda T, W, rate=rate: transformers_schedules.cosine_warmup_with_min_lr(
                W, min_lr_rate=0.2, warmup_lr_rate=rate
            ),
            differs=RISES_AGAIN,
            warmups=True,
        )
        for rate in (None, 0.3)
    ]
    + [  # one update of warmup: theirs begins at the rate
        Row(
            lambda o, T, W, rate=rate: hf.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
                o, 1, T, num_cycles=0.75, min_lr=1e-3, warmup_lr_rate=rate
            ),
            lambda T, W, rate=rate: transformers_schedules.cosine_warmup_with_min_lr(
                1, num_cycles=0.75, min_lr=1e-3, warmup_lr_rate=rate
            ),
            differs=RISES_AGAIN + "; " + ABSOLUTE,
            first_group=True,
        )
        for rate in (None, 0.0, 0.3)
    ],
    "warmup_stable_decay": [
        Row(
            lambda o, T, W, up=up, down=down: wsd(
                o, T, W, warmup_type=up, decay_type=down, min_lr_ratio=0.1
            ),
            lambda T, W, up=up, down=down: transformers_schedules.warmup_stable_decay(
                W, (T - W) // 3, warmup_type=up, decay_type=down, min_lr_ratio=0.1
            ),
            warmups=True,
            past=3,
            shortest=4,
        )
        for up, down in (("linear", "cosine"), ("cosine", "1-sqrt"), ("1-sqrt", "linear"))
    ]
    + [
        Row(
            lambda o, T, W: hf.get_wsd_schedule(
                o, 2, 3, num_stable_steps=4, min_lr_ratio=0.1, num_cycles=1.0
            ),
            lambda T, W: transformers_schedules.warmup_stable_decay(
                2, 3, num_stable_steps=4, min_lr_ratio=0.1, num_cycles=1.0
            ),
            past=3,
            shortest=9,
        )
    ],
}
TORCH: dict[str, list[Row]] = {
    "ConstantLR": [
        Row(
            lambda o, T, W: torchs.ConstantLR(o),
            lambda T, W: torch_schedules.ConstantLR(),
            shortest=5,
            past=3,
        ),
    ],
    "LinearLR": [
        Row(
            lambda o, T, W: torchs.LinearLR(o, 0.2, total_iters=T + 9),
            lambda T, W: torch_schedules.LinearLR(0.2, total_iters=T + 9),
        ),
        Row(
            lambda o, T, W: torchs.LinearLR(o),
            lambda T, W: torch_schedules.LinearLR(),
            shortest=5,
            past=3,
        ),
    ],
    "ExponentialLR": [
        Row(
            lambda o, T, W: torchs.ExponentialLR(o, 0.9),
            lambda T, W: torch_schedules.ExponentialLR(gamma=0.9),
        ),
    ],
    "StepLR": [
        Row(lambda o, T, W: torchs.StepLR(o, 4), lambda T, W: torch_schedules.StepLR(step_size=4)),
    ],
    "MultiStepLR": [
        Row(
            lambda o, T, W: torchs.MultiStepLR(o, [5, 2, 9999]),
            lambda T, W: torch_schedules.MultiStepLR(milestones=[5, 2, 9999]),
        ),
        Row(
            lambda o, T, W: torchs.MultiStepLR(o, [2, 5]),
            lambda T, W: torch_schedules.MultiStepLR(milestones=[2, 5]),
            shortest=5,
        ),
    ],
    "PolynomialLR": [
        Row(
            lambda o, T, W: torchs.PolynomialLR(o, 5, power=2.0),
            lambda T, W: torch_schedules.PolynomialLR(total_iters=5, power=2.0),
            shortest=5,
            past=3,
        ),
    ],
    "CosineAnnealingLR": [
        Row(
            lambda o, T, W: torchs.CosineAnnealingLR(o, 2 * T),
            lambda T, W: torch_schedules.CosineAnnealingLR(2 * T),
        ),
        Row(
            lambda o, T, W: torchs.CosineAnnealingLR(o, T, eta_min=1e-3),
            lambda T, W: torch_schedules.CosineAnnealingLR(eta_min=1e-3),
            differs=RISES_AGAIN,
        ),
    ],
    "CosineAnnealingWarmRestarts": [
        Row(
            lambda o, T, W, m=m: torchs.CosineAnnealingWarmRestarts(o, 3, T_mult=m, eta_min=1e-3),
            lambda T, W, m=m: torch_schedules.CosineAnnealingWarmRestarts(
                3, T_mult=m, eta_min=1e-3
            ),
        )
        for m in (1, 2, 3)
    ],
    "CyclicLR": [
        Row(
            lambda o, T, W, mode=mode: triangle(o, T, W, mode=mode, gamma=0.99, step_size_down=5),
            lambda T, W, mode=mode: torch_schedules.CyclicLR(
                0.002, 0.01, 3, step_size_down=5, mode=mode, gamma=0.99
            ),
            momentum=True,
        )
        for mode in ("triangular", "triangular2", "exp_range")
    ],
    "OneCycleLR": [
        Row(
            lambda o, T, W, more=more: one_cycle(o, T, W, **more),
            lambda T, W, more=more: torch_schedules.OneCycleLR(0.01, **more),
            differs="past the end theirs raises an error; ours stays constant",
            momentum=True,
            shortest=7,
        )
        for more in (
            {},
            {"pct_start": 0.45, "anneal_strategy": "linear", "div_factor": 10.0},
            {"three_phase": True, "final_div_factor": 100.0},
        )
    ],
    "LambdaLR": [
        Row(
            lambda o, T, W: torchs.LambdaLR(o, lambda epoch: 0.95**epoch),
            lambda T, W: torch_schedules.LambdaLR("lambda epoch: 0.95 ** epoch"),
        ),
    ],
    "MultiplicativeLR": [
        Row(
            lambda o, T, W: torchs.MultiplicativeLR(o, lambda epoch: 0.95),
            lambda T, W: torch_schedules.MultiplicativeLR("lambda epoch: 0.95"),
        ),
    ],
    "SequentialLR": [
        Row(
            lambda o, T, W: torchs.SequentialLR(
                o,
                [torchs.LinearLR(o, 0.1, total_iters=4), torchs.StepLR(o, 2)],
                milestones=[4],
            ),
            lambda T, W: torch_schedules.SequentialLR(
                [
                    {"name": "LinearLR", "start_factor": 0.1, "total_iters": 4},
                    {"name": "StepLR", "step_size": 2},
                ],
                milestones=[4],
            ),
            shortest=6,
        ),
    ],
    "ChainedScheduler": [
        Row(
            lambda o, T, W: torchs.ChainedScheduler(
                [torchs.LinearLR(o, 0.1, total_iters=4), torchs.StepLR(o, 2)]
            ),
            lambda T, W: torch_schedules.ChainedScheduler(
                [
                    {"name": "LinearLR", "start_factor": 0.1, "total_iters": 4},
                    {"name": "StepLR", "step_size": 2},
                ]
            ),
            differs="if a part has an absolute floor, theirs is a recursion, not a product",
            shortest=6,
        ),
    ],
}
