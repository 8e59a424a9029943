"""How good a model is, beside its ceilings and its baselines."""
