"""What an evaluation is about: its settings, the models that are compared, their replies, and the figures on them."""
