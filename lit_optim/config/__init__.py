"""Floor 2: what was typed, checked before anything heavy is loaded. Knows Hydra; not Lightning."""
