"""A user's Hydra app: its own model, data and loop; optimizers and schedules of lit-optim.

python examples/hydra_app/app.py optimizer=muon optimizer.lr=0.05 scheduler=wsd
python examples/hydra_app/app.py -m optimizer=adamw,lion,muon hydra/launcher=processes

Its search path brings four groups: optimizer, scheduler, param_groups and wrapper.
"""

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.nn.functional import binary_cross_entropy_with_logits


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float:
    """Train, and return the last loss, which a sweeper may minimize."""
    torch.manual_seed(cfg.seed)
    x, y = instantiate(cfg.data)
    model = instantiate(cfg.model)
    groups = instantiate(cfg.param_groups)(model)
    optimizer = instantiate(cfg.wrapper)(instantiate(cfg.optimizer)(groups))
    schedule = instantiate(cfg.scheduler)  # None for scheduler=none
    scheduler = None if schedule is None else schedule(optimizer, steps=cfg.steps)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        return loss

    for _ in range(cfg.steps):
        loss = optimizer.step(closure)
        if scheduler is not None:
            scheduler.step()
    print(f"loss {loss:.4f}, lr {optimizer.param_groups[0]['lr']:.3g}")
    return loss.item()


if __name__ == "__main__":
    train()
