"""Floor 1: closed-form curves over training time; none needs torch to be evaluated."""
