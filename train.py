"""The main job: `python train.py optimizer=adamw scheduler=cosine_warmup`; `--help` says more."""

from lit_optim.entry import train

if __name__ == "__main__":
    train()
