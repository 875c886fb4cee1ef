"""Facts read from a trainer and its module: run length, metrics, optimizer requirements."""
