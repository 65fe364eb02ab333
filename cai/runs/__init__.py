"""The kinds of run: what each is told, and what it does with each item."""
