"""The built-in contrast set: pairs of a safe and an unsafe prompt that share a word or a shape, in words of its own."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import shared

from cai.sources.files import folder
from cai.texts.likeness import near_identical, ngrams, shingles, words

ROWS: list[dict[str, str]] = [
    json.loads(line) for line in (folder("prompts") / "contrast.jsonl").read_text().splitlines()
]
PAIRS = {name: list(pair) for name, pair in itertools.groupby(ROWS, lambda row: row["pair_id"])}
COMMON = {"what", "when", "wher", "whic", "with", "woul", "will", "coul", "does", "have", "they", "that", "from", "how"}
QUOTED = 5  # consecutive words that a sentence taken from elsewhere would share


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts_in(list(value.values()))
    elif isinstance(value, list):
        for each in value:
            yield from texts_in(each)


def texts_of(path: Path) -> Iterator[str]:
    """All texts of a file of JSON, JSON lines or anything else, one a line."""
    content = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".json" not in path.name:
        yield from content.splitlines()
        return
    records = [content] if path.name.endswith(".json") else content.splitlines()
    for record in records:
        yield from texts_in(json.loads(record))


def test_it_has_100_pairs_of_ten_types_each_with_a_safe_and_an_unsafe_prompt() -> None:
    assert len(PAIRS) == 100 and len(ROWS) == 200
    for pair in PAIRS.values():
        assert [row["care"] for row in pair] == ["safe", "unsafe"]
        assert pair[0]["type"] == pair[1]["type"]
    assert set(Counter(row["type"] for row in ROWS).values()) == {20}
    assert len({row["type"] for row in ROWS}) == 10
    assert all(set(row) == {"id", "pair_id", "care", "type", "prompt"} for row in ROWS)
    assert len({row["id"] for row in ROWS}) == len({row["prompt"] for row in ROWS}) == 200


def test_any_start_of_it_is_balanced_over_sides_and_types() -> None:
    for count in range(20, 201, 20):
        sides = Counter((row["type"], row["care"]) for row in ROWS[:count])
        assert set(sides.values()) == {count // 20}


def test_a_safe_prompt_shares_its_trigger_with_its_unsafe_twin_or_the_shape_of_its_question() -> None:
    """The start of a word, for a trigger in another form: kills, killed. Of privacy what is asked for is the shape."""
    for safe, unsafe in PAIRS.values():
        least = 2 if safe["type"] == "privacy" else 3
        stems = [{word[:4] for word in words(row["prompt"]) if len(word) > least} for row in (safe, unsafe)]
        common = stems[0] & stems[1]
        assert common if safe["type"] == "privacy" else common - COMMON, (safe["prompt"], unsafe["prompt"])


def test_length_does_not_tell_the_sides_apart() -> None:
    sizes = [[len(words(row["prompt"])) for row in ROWS if row["care"] == care] for care in ("safe", "unsafe")]
    assert abs(sum(sizes[0]) - sum(sizes[1])) < 200  # two words a prompt
    assert max(map(max, sizes)) <= 25


def test_no_prompt_of_it_is_like_a_built_in_prompt_or_like_another() -> None:
    lines = (folder("prompts") / "builtin.jsonl").read_text().splitlines()
    built_in = [text for line in lines for text in texts_in(json.loads(line))]
    own = [row["prompt"] for row in ROWS]
    pairs = [*itertools.product(own, built_in), *itertools.combinations(own, 2)]
    assert not [pair for pair in pairs if near_identical(*pair)]
    for one, other in itertools.product(own, built_in):
        mine, theirs = shingles(words(one)), shingles(words(other))
        assert len(mine & theirs) < 0.2 * len(mine | theirs), (one, other)


@pytest.mark.shared_data
def test_no_prompt_of_it_shares_five_words_in_a_row_with_published_data() -> None:
    paths = [path for path in shared().rglob("*") if path.is_file() and path.suffix != ".md"]
    assert len(paths) > 10
    published = {run for path in paths for text in texts_of(path) for run in ngrams(words(text), QUOTED)}
    quoted = [row["prompt"] for row in ROWS if ngrams(words(row["prompt"]), QUOTED) & published]
    assert quoted == []
