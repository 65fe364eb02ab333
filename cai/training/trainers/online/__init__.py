"""Training on rewards for the model's own replies."""
