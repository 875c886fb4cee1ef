"""`python -m lit_optim`: what train.py in a checkout and `lit-optim train` run."""

from lit_optim.interrupts import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()  # before anything that takes time is imported

    from lit_optim.app import main

    main()
