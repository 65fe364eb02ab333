"""The words of the questions about replies, as n-grams that a reply may echo."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from cai.constitution.files import load_constitution
from cai.constitution.principles import Constitution
from cai.engine.templates.sets import Templates
from cai.sources.files import folder
from cai.texts.likeness import Ngram
from cai.texts.off_task import ngrams_of_all

BUILT_IN = "built-in "


@cache
def shipped_ngrams() -> frozenset[Ngram]:
    """The word n-grams of the built-in constitutions and chat templates, of which any dataset may hold echoes."""
    laws = [load_constitution(path) for path in sorted(folder("constitutions").glob("*.yaml"))]
    templates = [path.read_text(encoding="utf-8") for path in folder("prompts").glob("*/*.jinja")]
    return ngrams_of_all([*templates, *(text for law in laws for text in wordings(law))])


def wordings(law: Constitution) -> list[str]:
    """All that the principles of a constitution ask, each text once."""
    return list(dict.fromkeys(text for each in law.principles for text in each.wordings.values()))


def unshipped_words(law: Constitution, templates: Templates) -> list[str]:
    """The words of a constitution and of templates that are not built in: a later look at the rows lacks them."""
    texts = [] if law.source.startswith(BUILT_IN) else wordings(law)
    if not templates.source.startswith(BUILT_IN):
        texts += [path.read_text(encoding="utf-8") for path in sorted(Path(templates.source).glob("*.jinja"))]
    return texts


def ngrams_asked(texts: Iterable[str]) -> frozenset[Ngram]:
    """The word n-grams of the questions that a run stored, and of the built-in ones."""
    return shipped_ngrams() | ngrams_of_all(texts)
