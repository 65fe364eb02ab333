"""The suites of an evaluation: for each, what is asked of whom, and the figures that follow.

A new suite is a file and an entry here.
"""

from __future__ import annotations

from collections.abc import Sequence

from cai.evaluation.arena.suite import Suite
from cai.evaluation.suites.degeneration import Degeneration
from cai.evaluation.suites.harm import Harm
from cai.evaluation.suites.preference import Preference
from cai.evaluation.suites.refusals import Refusals
from cai.evaluation.suites.scale import Scale
from cai.evaluation.suites.tax import Tax
from cai.sources.files import Source

SUITES: dict[str, type[Suite]] = {  # by name, in the order in which they run
    each.name: each for each in (Preference, Scale, Refusals, Harm, Tax, Degeneration)
}


def contrast_sources(suites: Sequence[Suite]) -> list[Source]:
    """The safe and unsafe prompts that suites ask about, once each."""
    asking = [suite for suite in suites if isinstance(suite, Refusals)]
    asking += [suite.refusals for suite in suites if isinstance(suite, Harm)]
    return [suite.contrast.source for suite in asking[:1]]  # they share one set
