from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from shared import shared
from typer.testing import CliRunner

from cai.cli.audit import audit as command
from cai.errors import CaiError, SourceError, UsageError
from cai.evaluation.audit import audit
from cai.evaluation.audit_report import MEASURES, OF_REPLIES
from cai.texts.hygiene import EVASIVE
from cai.texts.refusals import ENGLISH

ROOT = Path(__file__).resolve().parents[2]
PLAIN = "The ferry leaves at dawn, and the last one comes back at nine in the evening, from the second pier."
NO = "I'm sorry, but I can't help with that."
ASKED = "When does the ferry leave?"
TURN = [{"role": "user", "content": ASKED}]

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(*rows: Any, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return put


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


# Counts


@given(st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_no_record_ends_an_audit(record: Any) -> None:
    result = audit([{"completion": PLAIN}, {"chosen": record, "rejected": record}, record])
    assert result.rows + result.bad == 3


def test_every_fault_is_counted_for_its_role(write: Write) -> None:
    good = PLAIN * 2
    rows = [
        {"id": "1", "prompt": "Why one?", "chosen": NO, "rejected": NO},
        {"id": "2", "prompt": "Why two?", "chosen": f"Here is a revised reply: {PLAIN}", "rejected": ""},
        {"id": "3", "prompt": "Why three?", "chosen": f"{PLAIN}\n\nHuman: And?", "rejected": f"{PLAIN} 🎉"},
        {"id": "4", "prompt": "Why three?", "chosen": good, "rejected": f" {good}\n"},
    ]
    result = audit(write(*rows))
    chosen, rejected = result.roles["chosen"], result.roles["rejected"]
    assert (result.rows, result.bad, result.pairs, result.prompts) == (4, 0, 4, 4)
    assert {name for name, count in chosen.counts.items() if count} == {
        "refusal", "refusal_full", "preamble_leak", "role_mixup", "evasive",
    }  # fmt: skip
    assert {name: count for name, count in rejected.counts.items() if count} == {
        "empty": 1, "refusal": 1, "refusal_full": 1, "evasive": 1, "emoji": 1,
    }  # fmt: skip
    assert result.rates["refusal_full"] == 0.25 and chosen.rates["refusal_full"] == 0.25
    assert result.rates["both_refused"] == 0.25 and result.rates["identical"] == 0.5
    assert result.rates["chosen_longer"] == 0.5 and result.rates["duplicate_prompt"] == 0.25
    assert result.rates["overlap"] is None
    assert set(result.rates) == set(result.counts) == set(MEASURES)


def test_what_a_record_says_was_cut_is_truncated() -> None:
    result = audit([{"completion": PLAIN, "finish_reason": "length"}, {"completion": PLAIN, "finish_reason": "stop"}])
    assert result.counts["truncated"] == 1
    replies = [{"text": PLAIN, "problem": "truncated"}, {"text": PLAIN, "problem": None}]
    assert audit([{"prompt": TURN, "replies": replies}]).counts["truncated"] == 1


def test_a_phrase_that_many_replies_hold_is_listed_for_its_role() -> None:
    rows = [{"chosen": f"{i} x{i}. You can count on me, always.", "rejected": f"{i} y{i}"} for i in range(10)]
    result = audit(rows)
    assert result.roles["chosen"].phrases == (("you can count on me always", 1.0),)
    assert result.roles["rejected"].phrases == ()


def test_bad_rows_are_counted_and_the_first_are_shown_with_their_line(write: Write) -> None:
    result = audit(write({"completion": PLAIN}, "no json", {"question": ASKED}, {"completion": PLAIN}))
    assert (result.rows, result.bad, result.rates["bad"]) == (2, 2, 0.5)
    assert [line for line, _ in result.bad_rows] == [2, 3]
    lines = list(result.lines())
    assert "2 without a reply" in lines[0] and any("line 2: not JSON" in line for line in lines)


def test_a_file_without_any_reply_is_an_error(write: Write) -> None:
    with pytest.raises(SourceError, match=r"data.jsonl:1: no record has a reply.*--reply-field"):
        audit(write({"question": ASKED}, {"question": ASKED}))


def test_columns_of_others_can_be_named_and_a_wrong_name_is_told(write: Write) -> None:
    path = write({"task": "Is it late?", "model_says": NO, "text": PLAIN})
    assert audit(path, reply_field="model_says", prompt_field="task").counts["refusal_full"] == 1
    with pytest.raises(
        UsageError, match=r"--reply-field 'model_say': there is no such column; did you mean 'model_says'"
    ):
        audit(path, reply_field="model_say")
    with pytest.raises(UsageError, match=r"--prompt-field 'zzz': .* known: task, model_says, text"):
        audit(path, prompt_field="zzz")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet", "a.txt"])
def test_files_of_every_kind_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.csv":
        path.write_text(f'prompt,completion\nWhy?,"{PLAIN}"\nHow?,"{NO}"\n')
    elif name == "a.txt":
        path.write_text(f"{PLAIN}\n{NO}\n")
    elif name == "a.parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"question": ["Why?", "How?"], "answer": [PLAIN, NO]}), path)
    else:
        path.write_bytes(gzip.compress("".join(json.dumps({"output": text}) + "\n" for text in (PLAIN, NO)).encode()))
    result = audit(path)
    assert (result.rows, result.counts["refusal_full"]) == (2, 1)


# Prompts in two files


def test_prompts_that_another_file_has_too_are_an_overlap(write: Write) -> None:
    long = "Name every lighthouse between the two capes, north to south, with the year in which each of them was built"
    train = write(*({"prompt": p, "completion": PLAIN} for p in (ASKED, long, "Why?")), name="train.jsonl")
    test = write({"prompt": TURN}, {"prompt": f"{long} please"}, name="test.jsonl")
    result = audit(train, against=test)
    assert (result.counts["overlap"], result.counts["near_overlap"]) == (1, 1)
    assert audit(train).rates["overlap"] is None
    with pytest.raises(SourceError, match="no prompt in it to compare with"):
        audit(train, against=write({"completion": PLAIN}, name="none.jsonl"))


def test_a_run_folder_is_audited_against_its_own_eval_file(write: Write) -> None:
    row = {"prompt": TURN, "chosen": said(PLAIN), "rejected": said(NO)}
    folder = write(row, name="run/dpo.jsonl").parent
    assert audit(folder).notes == ("of the run folder, dpo.jsonl was read", ENGLISH)
    write(row, name="run/dpo.eval.jsonl")
    result = audit(folder)
    assert result.rates["overlap"] == 1 and "dpo.eval.jsonl" in result.notes[1]
    with pytest.raises(SourceError, match="is a folder without rows"):
        audit(folder.parent)


# Verdicts


def test_every_reply_has_its_verdict_in_the_order_of_the_file(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    rows = [{"id": "x", "prompt": ASKED, "chosen": PLAIN, "rejected": NO}, "broken", {"id": 7, "completion": "🎉"}]
    result = audit(write(*rows), rows=out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["line"], row["id"], row.get("role")) for row in lines] == [
        (1, "x", "chosen"),
        (1, "x", "rejected"),
        (2, None, None),
        (3, 7, "reply"),
    ]
    assert [row.get("refusal") for row in lines] == ["none", "full", None, "none"]
    assert lines[2]["problem"].startswith("not JSON")
    assert lines[3]["emoji"] is True and lines[3]["characters"] == 1
    checks = set(OF_REPLIES) - {"refusal", "refusal_full", "refusal_partial"}
    for name in checks:
        assert sum(row.get(name, False) for row in lines) == result.counts[name], name


def test_an_audit_that_fails_leaves_the_old_verdicts(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    out.write_text("old")
    with pytest.raises(SourceError):
        audit(write({"question": 1}), rows=out)
    assert out.read_text() == "old" and [path.name for path in tmp_path.glob("*.part")] == []


def test_the_verdicts_do_not_replace_what_they_are_about(write: Write) -> None:
    path = write({"completion": PLAIN})
    with pytest.raises(UsageError, match="is the file that is audited"):
        audit(str(path), rows=path)


# Limits


def test_what_holds_no_records_is_refused() -> None:
    for wrong in ({"source": 5}, {"source": ["A"], "against": 5}):
        with pytest.raises(
            UsageError, match=f"the {list(wrong)[-1]} is 5: name a file or a run folder, or pass a list"
        ):
            audit(**wrong)  # type: ignore[arg-type]


# The command


def test_the_command_prints_a_table_or_json(write: Write) -> None:
    path = str(write({"prompt": ASKED, "completion": NO}))
    table = CliRunner().invoke(app, [path])
    assert table.exit_code == 0 and "refusal full" in table.stdout and "100.0%" in table.stdout
    summary = json.loads(CliRunner().invoke(app, [path, "--json"]).stdout)
    assert summary["roles"]["reply"]["rates"]["refusal_full"] == 1 and summary["rows"] == 1


def test_the_command_fails_after_its_report_where_a_limit_is_exceeded(write: Write) -> None:
    path = str(write({"prompt": ASKED, "completion": NO}))
    done = CliRunner().invoke(app, [path, "--json", "--fail-on", "refusal_full=0.2,role_mixup=0"])
    assert isinstance(done.exception, CaiError) and done.exit_code == 1
    assert str(done.exception).endswith("refusal_full is 1, which is 0.8 above 0.2")
    assert json.loads(done.stdout)["rows"] == 1
    assert CliRunner().invoke(app, [path, "--fail-on", "refusal_full=1"]).exit_code == 0


def test_an_audit_needs_no_heavy_package(write: Write) -> None:
    import subprocess

    path = str(write({"completion": NO}))
    code = f"import sys; from cai.evaluation.audit import audit; audit({path!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not {"torch", "pyarrow", "datasets", "numpy", "pandas"} & set(done.stdout.split())


# Real data


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("model", "comfort", "evasive"),
    [("RLMADISON", 89.6, 0), ("RLMADISON_COT", 16.5, 0), ("HHRLHF", 0.4, 31.3), ("HRLHF", 0.3, 0)],
)
def test_the_paper_s_samples_show_how_a_model_collapsed(model: str, comfort: float, evasive: float) -> None:
    result = audit(shared("cai_paper", f"PALMS_{model}.jsonl.gz"))
    assert (result.rows, result.bad, result.roles["reply"].replies) == (40, 0, 680)
    rates = result.roles["reply"].rates
    assert (round(100 * rates["comfort"], 1), round(100 * rates["evasive"], 1)) == (comfort, evasive)
    assert rates["role_mixup"] == rates["preamble_leak"] == 0
    assert EVASIVE == 80


@pytest.mark.shared_data
def test_human_preference_transcripts_are_audited_without_a_bad_row() -> None:
    result = audit(shared("hh_harmless_dev.jsonl.gz"))
    assert (result.rows, result.bad, result.pairs, result.prompts) == (1156, 0, 1156, 1156)
    assert result.rates["chosen_longer"] == pytest.approx(504 / 1156)
    assert result.roles["chosen"].counts["empty"] > 0


def test_an_id_that_json_cannot_hold_ends_no_audit(tmp_path: Path) -> None:
    records = [
        {"id": 10**24, "prompt": "Hi?", "reply": "Yes, it is."},
        {"id": "\ud800", "prompt": "Ho?", "reply": "No."},
        {"id": 5, "prompt": "He?", "reply": "Fine."},
    ]
    result = audit(records, rows=tmp_path / "rows.jsonl")
    written = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in written] == [str(10**24), None, 5]
    assert "UTF-8" in written[1]["problem"] and result.bad == 1
