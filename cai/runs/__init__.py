"""The kinds of run: the settings of each, and what it does with each item."""
