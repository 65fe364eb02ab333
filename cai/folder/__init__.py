"""A run on disk: its rows, its finished calls, and whose run it is."""
