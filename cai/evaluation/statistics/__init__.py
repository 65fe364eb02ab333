"""Arithmetic on the outcomes of an evaluation: pure functions on numbers, each with its source."""
