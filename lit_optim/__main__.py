"""`python -m lit_optim`: what train.py in a checkout and `lit-optim train` run."""

from lit_optim.entry import train

if __name__ == "__main__":
    train()
