"""Constitutional AI and RLAIF: critique, revise, judge, train."""
