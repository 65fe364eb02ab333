"""The suites of an evaluation: for each, what is asked of whom, and the figures that follow.

A new suite is a file and an entry here.
"""

from __future__ import annotations

from cai.evaluation.arena.suite import Suite
from cai.evaluation.suites.degeneration import Degeneration
from cai.evaluation.suites.harm import Harm
from cai.evaluation.suites.preference import Preference
from cai.evaluation.suites.refusals import Refusals
from cai.evaluation.suites.scale import Scale
from cai.evaluation.suites.tax import Tax

SUITES: dict[str, type[Suite]] = {  # by name, in the order in which they run
    each.name: each for each in (Preference, Scale, Refusals, Harm, Tax, Degeneration)
}
