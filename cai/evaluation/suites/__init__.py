"""The suites of an evaluation: for each, what is asked of whom, and the figures that follow.

A new suite is a file and an entry here.
"""

from __future__ import annotations

from cai.evaluation.arena.suite import Suite

SUITES: dict[str, type[Suite]] = {}  # by name, in the order in which they run
