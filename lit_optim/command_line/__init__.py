"""The command line before Hydra: from arguments to a checked configuration."""
