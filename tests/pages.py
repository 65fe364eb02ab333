"""Markdown as tests see it: of the repository's pages the fenced blocks, the links and the commands that they name.

A block's info string is its language and, after it, tags (see test_docs.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cai.cli.main import command

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*) *([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WIDTH = 100  # columns of the help texts in docs/cli.md


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of the page, where the text begins
    language: str
    tags: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(3)) + 1, found[1], tuple(found[2].split()), found[3])
        for found in FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def front_matter(card: str) -> dict[str, Any]:
    """That of a card as the hub reads it: from the first line to the next line of three dashes."""
    found = re.match(r"\A---\n(.*?)\n---\n", card, re.DOTALL)
    assert found
    parsed = yaml.safe_load(found[1])
    assert isinstance(parsed, dict)
    return parsed


def links(page: Path) -> list[str]:
    """The targets of a page's relative links."""
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(shell: str) -> Iterator[list[str]]:
    """The words of every simple command in a shell text, variables set before it left out."""
    for line in re.sub(r"\\\n", " ", shell).splitlines():
        words = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if re.fullmatch(r"[|&;()]+", word):
                if command:
                    yield command
                command = []
            elif command or not re.match(r"\w+=", word):
                command.append(word)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The words of every `cai …` in a page's running text."""
    for code in re.findall(r"`(cai [^`]+)`", prose(page)):
        yield code.split()


def help_texts() -> dict[str, str]:
    """What `--help` prints, by command path such as "cai plan generate"."""
    return {context.command_path: context.command.get_help(context) for context in _contexts(opened(command()))}


def opened(command: Any, name: str = "cai", parent: Any = None) -> Any:
    """The context of a command, as its `--help` makes it; the options of settings are only there then."""
    return command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)


def child_of(context: Any, name: str) -> Any:
    """The context of a command of a group."""
    return opened(context.command.get_command(context, name), name, context)


def _contexts(context: Any) -> Iterator[Any]:
    yield context
    for name in getattr(context.command, "commands", ()):
        yield from _contexts(child_of(context, name))


def option_names(name: str) -> set[str]:
    """The names in Python of what a command such as "generate" takes."""
    return {str(parameter.name) for parameter in child_of(opened(command()), name).command.params}


def wrong_in(words: list[str]) -> str | None:
    """What a `cai` command names that does not exist: a command or an option; None where all is well."""
    context = opened(command())
    options = {name for parameter in context.command.params for name in parameter.opts}
    for word in words[1:]:
        if hasattr(context.command, "commands") and not word.startswith("-"):
            if not word.isascii():  # `cai generate …`
                break
            if word not in context.command.commands:
                return f"no command {word!r}"
            context = child_of(context, word)
            for parameter in context.command.params:
                options |= {*parameter.opts, *parameter.secondary_opts}
        elif word.startswith("--") and word.split("=")[0] not in options | {"--help"}:
            return f"no option {word}"
    return None
