"""Templates of model cards, and the filled cards of the embedded checkpoints."""
