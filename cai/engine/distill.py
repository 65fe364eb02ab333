"""Context distillation: the same prompt answered with the constitution in the system text, and without it.

Askell et al. 2021 (arXiv 2112.00861, section 2.2) train a model to answer without a context as it does with it. The
teacher's reply stands in the row as the revision of its one round, so whatever reads chains reads these, too.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from cai.constitution.principles import Constitution
from cai.engine.revise import Ask, Chain, problem_of, reasoned, whole
from cai.engine.templates.sets import Templates
from cai.errors import RowDropped
from cai.records import EVERY, Completion, DropReason, Prompt, Request, Round


def distill(prompt: Prompt, student: Ask, teacher: Ask) -> Generator[list[Request], list[Completion], Chain]:
    """Ask the student and the teacher side by side; raises RowDropped for an empty or truncated reply of the teacher.

    SFT learns from the teacher alone, so a reply of the student that is no side of a pair loses the pair, not the row.
    """
    taught = replace(teacher.respond(prompt), role="reviser")
    initial, thoughts = "", None
    try:
        first, second = yield [student.respond(prompt), taught]
    except RowDropped as refusal:
        if refusal.stage != "assistant" or refusal.reason == "model_error":  # which is tried again on resuming
            raise
        problem: DropReason | None = refusal.reason
        [second] = yield [taught]  # which is answered already
    else:
        initial, thoughts, problem = first.text.strip(), first.reasoning, problem_of(first)
    final = whole(second, "reviser")
    turn = Round(
        principle=EVERY, critique="", verdict=None, revision=final, changed=final != initial, **reasoned(second)
    )
    return Chain(initial, (turn,), final, reasoning=thoughts, problem=problem)


def teacher_of(templates: Templates, law: Constitution, system: str | None) -> Ask:
    """Who answers under all principles; raises TemplateError if the set has no words for that.

    system: the text that the student has before its conversations, too; None for nothing.
    """
    templates.need("teach")
    teaching = templates.render("teach", principles=law.principles).strip()
    texts = [teaching] if system is None else [system, teaching]
    return Ask(templates, law, system="\n\n".join(texts))
