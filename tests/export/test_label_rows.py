from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cai.export.label_rows import read_units


@settings(max_examples=60)
@given(st.text(), st.integers(0, 2**40), st.booleans())
def test_a_place_is_found_in_a_line_whatever_the_texts_before_it(before: str, position: int, spaced: bool) -> None:
    row = {"id": before + '"position":7,', "position": position, "prompt": []}
    separators = (", ", ": ") if spaced else (",", ":")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "labels.jsonl"
        lines = [row, {"position": position + 1}, {"prompt": [], "position": position + 2}]
        file.write_text("".join(json.dumps(line, separators=separators) + "\n" for line in lines) + '{"position": 1')
        found = [row["position"] for unit in read_units(file) for row in unit]
    assert found == [position, position + 1, position + 2]
