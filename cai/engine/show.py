"""Shows a constitution, and the exact words that templates make of it, for `cai constitution show` and `check`."""

from __future__ import annotations

from cai.constitution.files import Reader, find_constitution, load_constitution
from cai.constitution.principles import Finding
from cai.constitution.scale import scales_in, scales_of
from cai.engine.ask_judge import AskJudge
from cai.engine.ask_scale import AskScale
from cai.engine.distill import teacher_of
from cai.engine.gate import Gate, YesNo
from cai.engine.revise import Ask
from cai.engine.screen import AskScreen
from cai.engine.templates.checks import JOBS, VARIABLES
from cai.engine.templates.findings import check_templates
from cai.engine.templates.sets import find_templates, load_templates
from cai.errors import TemplateError, UsageError
from cai.records import Message, Prompt
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
        if "screen" in loaded.by_name:
            AskScreen(loaded, law).check(p for p in law.principles if p.can("revise"))
        if "teach" in loaded.by_name:
            teacher_of(loaded, law, None)
        if "judge" in loaded.by_name:
            AskJudge(loaded, law, prefill=True).check(p for p in law.principles if p.can("judge"))
        if "scale" in loaded.by_name:
            AskScale(loaded, prefill=True).check(scales_in(law))
    except TemplateError as error:
        file = str(error.path or templates)
        findings.append(Finding(code="template-principle", message=error.message, file=file, line=error.line))
    return findings


def show(name: str, template_set: str, template: str | None, message: str) -> list[str]:
    """A constitution for people to read; or, per principle, the exact words that `template` makes of it.

    template: respond, critique, gate, revise, screen, teach, judge or scale; None: the principles as they are written.
    """
    law = load_constitution(name)
    if template is None:
        return report_lines(__file__, law=law, scales=scales_in(law), requests=())
    if template not in VARIABLES:
        raise UsageError(f"unknown template {template!r}; {nearest(template, VARIABLES)}")
    templates = load_templates(template_set)
    turn: Message = {"role": "user", "content": message}
    if template in JOBS["judge"]:
        judge = AskJudge(templates, law, prefill=True)
        replies = "(here stands one reply)", "(here stands the other reply)"
        judged = law.principles_for("judge")
        requests = [(each.id, judge.letter(((turn,), *replies, each), score=True)) for each in judged]
        return report_lines(__file__, law=None, requests=requests)
    reply, critique = "(here stands the assistant's reply)", "(here stands the critique)"
    if template == "scale":
        rater = AskScale(templates, prefill=True)
        questions = [(scale.name, rater.question((turn,), reply, scale)) for scale in scales_of(law)]
        return report_lines(__file__, law=None, requests=questions)
    if template == "screen":
        requests = []
        for principle in law.principles_for("revise"):
            how = YesNo("score", templates.prefix["screen"])
            for request in next(AskScreen(templates, law).scores((turn,), reply, [principle], how)):
                requests.append((principle.id, request))
        return report_lines(__file__, law=None, requests=requests)
    ask = Ask(templates, law)
    prompt = Prompt(id="shown", messages=(turn,))
    if template == "teach":
        requests = [("", teacher_of(templates, law, None).respond(prompt))]
        return report_lines(__file__, law=None, requests=requests)
    if template == "respond":
        return report_lines(__file__, law=None, requests=[("", ask.respond(prompt))])
    revised = law.principles_for("revise")
    if template == "critique":
        requests = [(each.id, ask.critique(prompt, reply, each)) for each in revised]
    elif template == "gate":
        templates.need("gate")
        gate = Gate(0.5, "score", templates.prefix["gate"])
        requests = [(each.id, next(gate.ask(ask.gate(prompt, reply, critique, each)))[0]) for each in revised]
    else:
        requests = [(each.id, ask.revise(prompt, reply, critique, each)) for each in revised]
    return report_lines(__file__, law=None, requests=requests)
