"""Recipes: our own commands in order, as a YAML file says, each in a folder of its own."""
