"""Shows a constitution, and the exact words that templates make of it, for `cai constitution show` and `check`."""

from __future__ import annotations

from collections.abc import Iterator

from cai.constitution.principles import Finding, Reader, find_constitution, load_constitution
from cai.engine.ask_judge import AskJudge
from cai.engine.revise import Ask
from cai.engine.template_checks import JOBS, VARIABLES
from cai.engine.templates import check_templates, find_templates, load_templates
from cai.errors import TemplateError, UsageError
from cai.records import Message, Prompt, Request
from cai.texts.wording import nearest, report_lines


def template_findings(templates: str | None, constitution: str) -> list[Finding]:
    """What is wrong with a template set, alone and under a constitution; nothing if no set is named."""
    if templates is None:
        return []
    path, _ = find_templates(templates)
    findings = check_templates(path)
    law = Reader().read(find_constitution(constitution))
    if law is None or any(finding.level == "error" for finding in findings):
        return findings
    loaded = load_templates(templates)
    try:
        if "critique" in loaded.by_name:
            Ask(loaded, law).check(p for p in law.principles if p.can("revise"))
        if "judge" in loaded.by_name:
            AskJudge(loaded, law, prefill=True).check(p for p in law.principles if p.can("judge"))
    except TemplateError as error:
        file = str(error.path or templates)
        findings.append(Finding(code="template-principle", message=error.message, file=file, line=error.line))
    return findings


def show(name: str, template_set: str, template: str | None, message: str) -> Iterator[str]:
    """A constitution for people to read; or, per principle, the exact words that `template` makes of it.

    template: respond, critique, revise or judge; None shows the principles as they are written.
    """
    law = load_constitution(name)
    if template is None:
        yield from report_lines(__file__, law=law)
        return
    if template not in VARIABLES:
        raise UsageError(f"unknown template {template!r}; {nearest(template, VARIABLES)}")
    templates = load_templates(template_set)
    turn: Message = {"role": "user", "content": message}
    if template in JOBS["judge"]:
        judge = AskJudge(templates, law, prefill=True)
        for principle in law.principles_for("judge"):
            question = (turn,), "(here stands one reply)", "(here stands the other reply)", principle
            yield from _words(judge.letter(question, score=True), principle.id)
        return
    ask = Ask(templates, law)
    prompt = Prompt(id="shown", messages=(turn,))
    if template == "respond":
        yield from _words(ask.respond(prompt))
        return
    reply = "(here stands the assistant's reply)"
    for principle in law.principles_for("revise"):
        if template == "critique":
            request = ask.critique(prompt, reply, principle)
        else:
            request = ask.revise(prompt, reply, "(here stands the critique)", principle)
        yield from _words(request, principle.id)


def _words(request: Request, principle: str | None = None) -> Iterator[str]:
    """What a request asks for a principle, by its id; a first reply has none."""
    if principle is not None:
        yield f"# {principle}"
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
