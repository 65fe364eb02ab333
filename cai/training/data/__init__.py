"""Rows that train, and which of their tokens are learnt."""
