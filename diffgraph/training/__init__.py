"""Training: the recipe, steps, checkpoints, and what a training shows of itself."""
