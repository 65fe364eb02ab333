"""What templates ask, for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from cai.constitution.files import load_constitution, read_constitution
from cai.constitution.lint import Finding
from cai.engine.ask import Ask
from cai.engine.ask_judge import AskJudge
from cai.engine.template_checks import JOBS, VARIABLES, check_templates
from cai.engine.templates import find_templates, load_templates
from cai.errors import TemplateError, UsageError
from cai.records import Message, Prompt, Request


def template_findings(templates: str | None, constitution: str) -> list[Finding]:
    """What is wrong with a template set, alone and under a constitution, as findings of a check; None is no set."""
    findings = _set_findings(templates)
    law = read_constitution(constitution).constitution
    if templates is None or law is None or any(finding.level == "error" for finding in findings):
        return findings
    try:
        loaded = load_templates(templates)
        if "critique" in loaded.by_name:
            Ask(loaded, law).check(p for p in law.principles if p.can_revise)
        if "judge" in loaded.by_name:
            AskJudge(loaded, law, prefill=True).check(p for p in law.principles if p.can_judge)
    except TemplateError as error:
        file, text = str(error.path or templates), str(error).removeprefix(f"{error.path}:{error.line}: ")
        findings.append(Finding(level="error", code="template-principle", message=text, file=file, line=error.line))
    return findings


def show(name: str, template_set: str, template: str | None, message: str) -> Iterator[str]:
    """A constitution for people to read; or, per principle, the exact words that `template` makes of it.

    template: respond, critique, revise or judge; None shows the principles as they are written.
    """
    law = load_constitution(name)
    if template is None:
        yield from law.lines()
        return
    if template not in VARIABLES:
        close = get_close_matches(template, VARIABLES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VARIABLES)}"
        raise UsageError(f"unknown template {template!r}; {hint}")
    turn: Message = {"role": "user", "content": message}
    if template in JOBS["judge"]:
        judge = AskJudge(load_templates(template_set), law, prefill=True)
        first, second = "(here stands one reply)", "(here stands the other reply)"
        for principle in law.principles_for("judge"):
            yield f"# {principle.id}"
            yield from _words(judge.letter((turn,), first, second, principle, score=True))
        return
    ask = Ask(load_templates(template_set), law)
    prompt = Prompt(id="shown", messages=(turn,))
    reply, critique = "(here stands the assistant's reply)", "(here stands the critique)"
    if template == "respond":
        yield from _words(ask.respond(prompt))
        return
    for principle in law.principles_for("revise"):
        yield f"# {principle.id}"
        if template == "critique":
            yield from _words(ask.critique(prompt, reply, principle))
        else:
            yield from _words(ask.revise(prompt, reply, critique, principle))


def _words(request: Request) -> Iterator[str]:
    if request.text is not None:
        yield request.text
    for turn in request.messages:
        yield f"[{turn['role']}]"
        yield turn["content"]
    if request.prefill:
        yield f"[assistant, begun] {request.prefill}"
    if request.stop:
        yield f"[stop] {', '.join(map(repr, request.stop))}"
    yield ""


def _set_findings(name_or_folder: str | None) -> list[Finding]:
    """What is wrong with a template set, as findings of a check; None is no set."""
    if name_or_folder is None:
        return []
    path, _ = find_templates(name_or_folder)
    return [
        Finding(
            level="error" if problem.error else "warning",
            code="template-variable" if problem.error else "template-unused",
            message=problem.message,
            file=problem.path,
            line=problem.line,
        )
        for problem in check_templates(path)
    ]
