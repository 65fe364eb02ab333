"""What the page can ask: which rows there are, one of them whole, what a model was asked, and pairs to label."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from cai.errors import CaiError, UsageError
from cai.folder.journal.store import Store
from cai.folder.shards.calls import calls_in_shards
from cai.judge.gold import FILE as GOLD
from cai.records import Candidates, Label, Record, Revision, Values
from cai.runs.kinds.pairs_of_row import pairs_of_row
from cai.sources.values import BadRecord
from cai.viewer.index import MOST_ROWS, Index
from cai.viewer.labelling import Labelling
from cai.viewer.sources import Source

PAIRS = (Label, Revision, Candidates)  # rows that pairs can be made of
EXACT = 1 << 53  # up to which JavaScript knows every integer
QueueName = Literal["random", "uncertain"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What whoever started the viewer wants to label.

    annotate: how many pairs; None: the page opens with the rows. Others: see `Labelling`.
    """

    annotate: int | None = None
    queue: str = "random"
    gold: Path | None = None
    annotator: str | None = None
    agreement: float = 0.85
    seed: int = 0


class AskState(Record):
    """How far everything is read."""


class AskRows(Record):
    """Rows for the list."""

    source: int = Field(ge=0)
    facets: dict[str, str] = Field(default_factory=dict)
    words: str = ""
    start: int = Field(0, ge=0, lt=EXACT)
    count: int = Field(40, ge=1, le=MOST_ROWS)


class AskRow(Record):
    """A row, whole."""

    source: int = Field(ge=0)
    number: int = Field(ge=0, lt=EXACT)


class AskCall(Record):
    """A question that was put to a model, with its answer."""

    source: int = Field(ge=0)
    key: str = Field(pattern="^[0-9a-f]{32}$")


class AskPair(Record):
    """The next pair to label."""

    source: int = Field(ge=0)
    queue: QueueName


class Vote(AskPair):
    """What a person says of a pair."""

    key: str
    choice: Literal["first", "second", "tie", "skip"]
    seconds: float = Field(ge=0, allow_inf_nan=False)


class Answers:
    """Answers the questions of a page; several threads may ask."""

    def __init__(self, index: Index, wishes: Wishes) -> None:
        self._index, self._wishes = index, wishes
        self._lock = threading.Lock()  # of what follows
        self._labellings: dict[int, Labelling] = {}  # by source
        self._read: dict[int, int] = {}  # by source, the bytes of votes that the list knows
        self._seen: set[str] = set()  # keys of pairs whose verdict a page has been sent

    def check(self) -> None:
        """Raise UsageError, RunError or SourceError if a wish cannot be met, such as for another file of votes."""
        wishes = self._wishes
        numbers = [number for number, source in enumerate(self._index.sources) if source.row in PAIRS]
        if wishes.annotate is not None and not numbers:
            raise UsageError("--annotate: there are no pairs; name a run of cai label, sample or generate")
        if wishes.gold is not None and not wishes.gold.absolute().parent.is_dir():
            raise UsageError(f"--gold {wishes.gold}: there is no folder {wishes.gold.parent}; create it first")
        if numbers and wishes != Wishes():
            numbers.sort(key=lambda number: self._index.sources[number].row is not Label)  # as the page does
            self._labelling(numbers[0]).ask(wishes.queue)

    def _source(self, number: int) -> Source:
        if number >= len(self._index.sources):
            raise UsageError(f"there is no source {number}")
        return self._index.sources[number]

    def state(self, _: AskState) -> Values:
        """Of every source how far it is read, its facets, and whether it has pairs."""
        sources = []
        for number, state in enumerate(self._index.state()):
            problem = self._problem(number)
            more = {"pairs": self._index.sources[number].row in PAIRS, "problem": state["problem"] or problem}
            sources.append({**state, **more})
        return {"sources": sources, "annotate": self._wishes.annotate, "queue": self._wishes.queue}

    def _problem(self, number: int) -> str | None:
        """What keeps a source from being read, or the votes on it."""
        folder = self._index.sources[number].folder
        if not folder.is_dir():
            return f"{folder} is not there any more"
        return self._read_votes(number)

    def _read_votes(self, number: int) -> str | None:
        """Let the list follow the votes on a source, also those of other viewers; what is wrong with their file."""
        source = self._index.sources[number]
        path = self._wishes.gold or source.folder / GOLD
        if source.row not in PAIRS or not path.is_file():
            return None
        try:
            size = path.stat().st_size
            if self._read.get(number) == size:
                return None
            self._tell(number, self._labelling(number))
        except (CaiError, OSError) as error:  # other sources can be shown
            return str(error)
        self._read[number] = size
        return None

    def rows(self, ask: AskRows) -> Values:
        """The total of what was asked for, and some rows of it."""
        self._source(ask.source)
        page = self._index.page(ask.source, ask.facets, ask.words, ask.start, ask.count)
        for row in page["rows"]:
            row.pop("calls", None)  # by which the judge's answers could be asked for: see `row`
        return page

    def row(self, ask: AskRow) -> Values:
        """A row, whole: whoever votes on its pairs later knows what the judge says, or which reply is which."""
        self._source(ask.source)
        row = self._index.row(ask.source, ask.number)
        if row is None:
            raise UsageError("this row is not there any more")
        with self._lock:
            for key in _keys_of(row):
                self._seen.add(key)
                for labelling in self._labellings.values():
                    labelling.seen(key)
        return row

    def call(self, ask: AskCall) -> Values:
        """The exact request, and the answer with its logprobs."""
        folder = self._source(ask.source).folder
        with closing(Store(folder, briefly=True)) as store:
            call = store.call(ask.key) or calls_in_shards(folder, [ask.key]).get(ask.key)
        if call is None:
            raise UsageError(f"the calls.sqlite of this run has no call {ask.key}")
        return {"request": call.request, "answer": asdict(call.completion), "at": call.at, "cost_usd": call.cost_usd}

    def pair(self, ask: AskPair) -> Values:
        """The next pair, None if none is left, and the standing of the labels."""
        labelling = self._labelling(ask.source)
        return {"pair": labelling.ask(ask.queue), "standing": self._standing(ask)}

    def vote(self, ask: Vote) -> Values:
        """Keep a vote, and tell what may be shown after it."""
        labelling = self._labelling(ask.source)
        shown = labelling.vote(ask.key, ask.queue, ask.choice, ask.seconds)
        return {**shown, "number": self._tell(ask.source, labelling, ask.key)}

    def _tell(self, source: int, labelling: Labelling, *keys: str) -> int | None:
        """Let the index know what people say of pairs, by default of all; the number of the last one's row."""
        number = None
        for start, human in labelling.people(*keys):
            number = self._index.voted(source, start, human)
        return number

    def undo(self, ask: AskPair) -> Values:
        """Take the last vote back: its pair is asked about again."""
        pair = self._labelling(ask.source).undo()
        queue = ask.queue if pair is None else pair["queue"]
        if pair is not None:
            self._tell(ask.source, self._labelling(ask.source), pair["key"])
        again = ask.model_copy(update={"queue": queue})
        return {"pair": pair, "queue": queue, "standing": self._standing(again)}

    def _standing(self, ask: AskPair) -> Values:
        labelling = self._labelling(ask.source)
        return {**labelling.standing(ask.queue), "gold": str(labelling.path), "next": self._next(labelling, ask.source)}

    def _next(self, labelling: Labelling, number: int) -> str:
        """The command that makes something of the labels."""
        run = shlex.quote(str(self._source(number).folder))
        gold = shlex.quote(str(labelling.path))
        if not labelling.is_judged:
            return f"cai label {run} --gold {gold} --agreement {self._wishes.agreement:g}"
        option = "" if self._wishes.gold is None else f" --gold {gold}"
        return f"cai judge calibrate {run}{option} --out {run}"

    def _labelling(self, number: int) -> Labelling:
        """The labels of a source; raises UsageError for one without pairs."""
        source = self._source(number)
        wishes = self._wishes
        with self._lock:
            if number not in self._labellings:
                labelling = Labelling(source.folder, wishes.gold, wishes.annotator, wishes.agreement, wishes.seed)
                for key in self._seen:
                    labelling.seen(key)
                self._labellings[number] = labelling
            return self._labellings[number]


def _keys_of(row: Values) -> Iterable[str]:
    """The keys of the pairs in a row."""
    if row.get("key") is not None:
        return [row["key"]]
    if row["kind"] not in (Revision.__name__, Candidates.__name__):
        return []
    try:
        return [pair.key for pair in pairs_of_row(row)]
    except BadRecord:  # a prompt with fewer than two usable replies
        return []


class Question(NamedTuple):
    """A question by what it must hold, and who answers it."""

    kind: type[Record]
    answer: Callable[[Answers, Any], Values]


QUESTIONS = {
    "state": Question(AskState, Answers.state),
    "rows": Question(AskRows, Answers.rows),
    "row": Question(AskRow, Answers.row),
    "call": Question(AskCall, Answers.call),
    "pair": Question(AskPair, Answers.pair),
    "vote": Question(Vote, Answers.vote),
    "undo": Question(AskPair, Answers.undo),
}
