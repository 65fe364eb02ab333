"""Asking models: many calls at once, kept, bounded and paid for."""
