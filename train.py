"""The main job: `python train.py optimizer=adamw scheduler=cosine_warmup`; `--help` says more."""

from lit_optim.interrupts import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()  # before anything that takes time is imported

    from lit_optim.app import main

    main()
