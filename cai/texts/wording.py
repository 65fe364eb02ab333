"""Words for people: text that is safe to print, counts, hints at the right name, tables, examples, Markdown, plots.

In Markdown, text from files and models goes into a code span, a code block or a YAML scalar, so that it cannot end the
front matter or speak for the card.
"""

from __future__ import annotations

import inspect
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cai.records import Object

# What a terminal would obey, or show in another place than it stands: control characters but line ends and tabs, halves
# of surrogate pairs, line and paragraph separators, changes of direction.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
BAR = "\x1f"  # in place of a bar in a cell; white space, so that `one_line` leaves none in a text
WIDTH = 120  # columns of the help of a Python function
SHOWN = 600  # characters; the longest text that makes a good example to show
REPEATED = 0.5  # share of words from which on a revision says what its critique said
MOST_OF_AN_ERROR = 300  # characters; some libraries put whole files into their messages
F = TypeVar("F", bound=Callable[..., Any])


def printable(text: str) -> str:
    """A text in which nothing moves the cursor, sets a colour or reverses words: such characters are spelled out."""
    return UNPRINTABLE.sub(lambda character: ascii(character[0])[1:-1], text)


def option(name: str) -> str:
    """A setting as the command line names it."""
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def words_of(values: Object) -> list[str]:
    """The options of a command line that state these values; of a list, the same option for each of its values."""
    words = []
    for name, value in values.items():
        if value is True:
            words.append(option(name))
        elif value is False:
            words.append(f"--no-{name}")
        elif isinstance(value, list | tuple):
            for each in value:
                words += [option(name), str(each)]
        else:
            words += [option(name), str(value)]
    return words


def source_name(source: Any, limit: int | None) -> str:
    """What a source is called; limit: of its records."""
    name = "from Python"
    if source is None:
        name = "the built-in set"
    elif isinstance(source, str | Path):
        name = shortened(str(source), 200)
    if limit is not None:
        name += f", the first {limit:,}"
    return name


def none_usable(count: int, line: int, problem: str) -> str:
    """What is wrong with a source of which no record can be used; line and problem: of the first."""
    finding = f"none of {count:,} records can be used" if count > 1 else "its one record cannot be used"
    return f"{finding}; line {line}: {problem}"


def one_line(text: object) -> str:
    """The text with one blank for each run of white space."""
    return " ".join(str(text).split())


def reason_of(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters; its type if it says nothing."""
    return one_line(error)[:MOST_OF_AN_ERROR] or type(error).__name__


def counted(number: int, noun: str) -> str:
    """A number with its noun, to which more may be added: 1 row kept, 2 rows kept."""
    if number == 1:
        return f"1 {noun}"
    word, blank, rest = noun.partition(" ")
    return f"{number:,} {plural(word)}{blank}{rest}"


def plural(noun: str) -> str:
    """The plural of a regular noun: pairs, replies, batches."""
    return re.sub("([^aeiou])y$", r"\1ie", re.sub("ch$", "che", noun)) + "s"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 3:02:10."""
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def nearest(name: object, known: Iterable[object]) -> str:
    """What to type instead of an unknown name: "did you mean 'x'?", or "known: x, y, z"."""
    names = list(map(str, known))
    close = close_to(str(name), names)
    return f"known: {listed(names)}" if close is None else f"did you mean {close!r}?"


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, in lower or upper case; None if none is like it."""
    names = {one.lower(): one for one in known}
    return next((names[close] for close in get_close_matches(name.lower(), names, n=1)), None)


def listed(names: Sequence[str], most: int = 40) -> str:
    """The first names, for a message."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters; an ellipsis stands for what is cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def columns(text: str) -> str:
    """Lines whose cells are separated by ` | `, laid out: the first column aligned left, the others right.

    A line of one cell is a heading, which widens no column; what follows ` || ` stands behind the columns as it is.
    What comes from files and models goes through `cell`.
    """
    rows = [line.partition(" || ") for line in text.split("\n")[:-1]]
    table = [row.split(" | ") for row, _, _ in rows]
    cells = zip_longest(*(row for row in table if len(row) > 1), fillvalue="")
    first, *others = [max(map(len, column)) for column in cells] or [0]
    lines = ""
    for row, (_, _, remark) in zip(table, rows, strict=True):
        line = row[0].ljust(first)
        for cell, width in zip(row[1:], others, strict=False):
            line += cell.rjust(width + 2)
        lines += f"{line.rstrip(' ')}{remark}\n"
    return lines.replace(BAR, "|")


def cell(text: object) -> str:
    """A text in one cell of `columns`, whatever bars and line ends it has."""
    return one_line(text).replace("|", BAR)


def number(value: float | None, form: str) -> str:
    """A number in a cell, `form` as in `format`; a dash for None."""
    return "–" if value is None else format(value, form)


def telling(before: str, after: str, *critiques: str) -> tuple[bool, bool, bool, float]:
    """How well a row shows what a run does: its texts differ, are short, and share many words.

    And the second one does not say what a critique said, as the revisions of a small model do.
    """
    changed = before != after
    short = len(before) + len(after) <= 2 * SHOWN and len(after) <= 2 * len(before)
    if not (changed and short):
        return changed, short, False, 0.0
    fresh = all(overlap(critique, after) <= REPEATED for critique in critiques)
    return changed, short, fresh, overlap(before, after)


def overlap(a: str, b: str) -> float:
    """The share of the words of two texts that stand in both."""
    ours, theirs = set(a.split()), set(b.split())
    return len(ours & theirs) / max(1, len(ours | theirs))


# Markdown


def without_path(name: str) -> str:
    """A model's name without the folders it lay in; a hub's `org/name` stays."""
    provider, path = re.findall(r"^((?:[a-z]{2,}:)?)(.*)", one_line(name))[0]
    if re.match(r"[/\\.~]|[A-Za-z]:", path):
        path = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    return f"{provider}{path}"


def code(text: str) -> str:
    """A code span of one line that no backtick or table bar in the text can leave."""
    line = one_line(text).replace("|", "\\|")
    fence = _fence(line)
    pad = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def _fence(text: str) -> str:
    """Backticks, one more than any run of them in the text."""
    return max(re.findall("`+", text), default="") + "`"


def block(language: str, text: str) -> str:
    """A fenced block that no backticks in the text can end."""
    fence = _fence(text).ljust(3, "`")
    return f"{fence}{language}\n{text}\n{fence}\n"


def render_card(template: Path, front: Object, **values: Any) -> str:
    """A README.md: front matter, then a Jinja template. What a terminal would obey is replaced."""
    header = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1_000)
    return UNPRINTABLE.sub("\ufffd", f"---\n{header}---\n\n{rendered(template, **values)}")


def rendered(template: Path, **values: Any) -> str:
    """The text of a Jinja template beside the code that fills it.

    The template sees `values`, and the functions of this file that make text safe or lay it out; an undefined name is
    an error.
    """
    text: str = compiled(template).render(values)
    return text


@cache  # compiling a card takes 0.05 s, and filling it a fraction of that
def compiled(template: Path) -> Any:
    """A Jinja template, with the functions that it sees."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    functions = (code, block, one_line, without_path, counted, shortened)
    environment.globals.update({function.__name__: function for function in functions})
    environment.filters.update(columns=columns, cell=cell, number=number)
    return environment.from_string(template.read_text("utf-8"))


def report_lines(module: str, **values: Any) -> list[str]:
    """The lines of a report; its template is beside the module, under the name of that."""
    return rendered(Path(module).with_suffix(".txt.jinja"), **values).removesuffix("\n").split("\n")


# Plots

BEFORE, AFTER, GREY = "#b5532d", "#22577a", "#8a8a8a"  # apart in lightness too: for print and for colour-blind eyes


def new_figure(rows: int, **grid: Any) -> tuple[Any, list[Any]]:
    """A figure of `rows` plots over one axis, and these; grid: ratios of their heights."""
    # Not pyplot: it keeps every figure, and picks a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, gridspec_kw=grid)[:, 0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e6e6e6", linewidth=0.6)
        one.set_axisbelow(True)
    return figure, list(axes)


def png_of(figure: Any) -> bytes:
    """The bytes of the figure as PNG: equal for equal figures."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def settings_as_keywords(settings: type[BaseModel], *left_out: str) -> Callable[[F], F]:
    """Show settings, which a function takes as its `**settings`, as keywords in its signature and in its help.

    left_out: fields that the function does not take. The keywords for type checkers are in cai/__init__.pyi.
    """

    def with_keywords(function: F) -> F:
        signature = inspect.signature(function)
        *parameters, _ = signature.parameters.values()
        types = get_type_hints(settings)
        help = f"{inspect.getdoc(function)}\n\nSettings:"
        for name, field in settings.model_fields.items():
            if name in signature.parameters or name in left_out:
                continue
            default = field.get_default(call_default_factory=True)
            parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
            parameters.append(parameter)
            help += "\n" + textwrap.fill(f"    {name}: {field.description}", WIDTH, subsequent_indent=" " * 8)
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        function.__doc__ = help
        return function

    return with_keywords
