"""Templates of strangers: whatever they compute, they end soon and stay small, and ordinary ones notice nothing."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from cai.constitution.principles import Principle
from cai.engine.templates.sets import load_templates
from cai.errors import TemplateError

HOSTILE = {
    "power": "{{ 10**10**8 }}{{ 10**(10**8) }}",
    "tower": "{% set n = namespace(x=3) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "repeat": "{{ 'x' * 10**9 }}",
    "repeat a list": "{{ [1] * 10**9 }}",
    "repeat the other way": "{{ 10**9 * 'x' }}",
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "quiet loops": "{% for a in range(99999) %}{% for b in range(99999) if false %}x{% endfor %}{% endfor %}",
    "range": "{{ range(10**9)|list }}",
    "many ranges": "{% for i in range(99999) %}{% set x = range(99999)|list %}{% endfor %}",
    "doubling": "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "adding": "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "nesting": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "center": "{{ 'x'|center(10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "format of a width": "{{ '%*d' % (10**9, 1) }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "replace": "{% set x = 'x' * 9999 %}{{ x|replace('x', x)|replace('x', x) }}",
    "replace method": "{% set x = 'x' * 9999 %}{{ x.replace('x', x).replace('x', x) }}",
    "join": "{% set x = 'x' * 9999 %}{{ range(99999)|join(x) }}",
    "indent": "{% set x = '\n' * 9999 %}{{ x|indent(999999) }}",
    "lorem": "{{ lipsum(n=10**6) }}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "deep macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "include": "{% include 'critique.jinja' %}{% include 'critique.jinja' %}",
    "block set": "{% set n = namespace(x='xx') %}{% for i in range(60) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
}


def a_set(folder: Path, critique: str) -> Path:
    folder.mkdir()
    (folder / "critique.jinja").write_text("{{ principle.text }}" + critique)
    (folder / "revise.jinja").write_text("{{ principle.text }}")
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_would_not_end_is_refused_as_it_is_loaded(tmp_path: Path, name: str) -> None:
    began = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateError) as refusal:
        load_templates(a_set(tmp_path / "set", HOSTILE[name]))
    assert len(str(refusal.value).splitlines()) == 1 and "critique.jinja" in str(refusal.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KB
    assert time.process_time() - began < 60  # for ever, without the limits


def test_ordinary_templates_have_room_for_long_texts(tmp_path: Path) -> None:
    text = (
        "{% for turn in range(500) %}{{ turn }}: {{ principle.text|replace('a', 'bb')|upper }}{% endfor %}"
        "{{ principle.text.split()|join(', ') }}{{ '%s and %d'|format(principle.text, 7) }}{{ 'x' * 80 }}"
    )
    templates = load_templates(a_set(tmp_path / "set", text))
    principle = Principle(id="long", text="A sentence that goes on. " * 200)
    for _ in range(3):
        assert len(templates.render("critique", principle=principle, gate=False)) > 2_500_000
