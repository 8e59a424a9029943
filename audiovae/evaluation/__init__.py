"""Floor 5: how good a model is, beside its ceilings and its baselines."""
