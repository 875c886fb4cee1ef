"""What the algorithms are built on: the step, the executors' dispatch, param groups, options."""
