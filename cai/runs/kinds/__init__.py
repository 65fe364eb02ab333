"""The kinds of run: what each asks about an item, and the row that comes of it."""
