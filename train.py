"""The main job: `python train.py optimizer=adamw scheduler=cosine_warmup`; `--help` says more."""

from lit_optim.app import main

if __name__ == "__main__":
    main()
