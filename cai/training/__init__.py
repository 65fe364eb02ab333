"""Trainings, from rows to a model card."""
