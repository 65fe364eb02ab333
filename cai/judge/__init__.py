"""From two replies to a probability, and what that probability is worth."""
