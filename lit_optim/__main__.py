"""`python -m lit_optim`: what train.py in a checkout runs, or a command of `lit-optim`."""

from lit_optim.entry import module

if __name__ == "__main__":
    module()
