"""Floor 2: the small real tasks that ship: models and data."""
