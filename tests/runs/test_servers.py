"""Runs whose models sit on several servers: each sees its own key and no other, whatever it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from habits import REPLY, Answer, Habits, Mode, answer, at_first, chat, listed, says, serving
from seldom import seldom

import cai
from cai.errors import AuthenticationFailed, ModelStopped, UsageError

ROLES = ("writer", "critic", "reviser", "judge")
PROMPTS = [{"id": str(number), "prompt": f"Question {number}?"} for number in range(3)]
OTHERS = {"OPENAI_API_KEY": "sk-openai-Rw7", "GROQ_API_KEY": "gsk-groq-Kp3", "HF_TOKEN": "hf_token_Mt5"}
REVISION = "Freeze what you will not eat within three days."
LETTERS = answer(chat("A", choice={"logprobs": listed(("A", -0.1), ("B", -2.4))}))
SAYS = {"writer": says(), "critic": says(), "reviser": says(REVISION), "judge": lambda asked: LETTERS}
TROUBLE = {  # what a server answers before it answers as its role
    "fails": answer({"error": {"message": "boom"}}, 500, Retry_After="0"),
    "busy": answer({"error": {"message": "slow down"}}, 429, Retry_After="0"),
}
MODES = {role: Mode(reply) for role, reply in SAYS.items()}
MODES["critic-echoes"] = Mode(lambda asked: says(f"I was sent {asked.headers['Authorization']}.")(asked))
MODES |= {f"{role}-{name}": Mode(at_first(2, TROUBLE[name], SAYS[role])) for role in ROLES for name in TROUBLE}


def key_of(role: str) -> str:
    return f"sk-of-the-{role}-Zq8vW2mT4xR7"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Habits]]:
    """A server for each role, whose key is in the variable of its host, and other keys around."""
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        running = {role: stack.enter_context(serving(MODES)) for role in ROLES}
        for role, server in running.items():
            monkeypatch.setenv(f"CAI_KEY_127_0_0_1_{server.port}", key_of(role))
        yield running


def spec(servers: dict[str, Habits], role: str, trouble: str = "", provider: str = "openai") -> str:
    return f"{provider}:tiny-{role}@{servers[role].url(role + trouble)}"


def generate(servers: dict[str, Habits], out: Path, trouble: str = "", **settings: Any) -> list[Any]:
    models = {"model": "writer", "critic": "critic", "reviser": "reviser", "accept": "judge"}
    specs = {option: spec(servers, role, trouble) for option, role in models.items()}
    return list(cai.generate(PROMPTS, "harmless", out=out, rounds=1, gate=False, **{**specs, **settings}))


def check_keys(servers: dict[str, Habits], *asked: str) -> None:
    """Every server in `asked` was sent its own key with every request, and none any other."""
    keys = {role: key_of(role) for role in ROLES} | OTHERS
    for role, server in servers.items():
        assert bool(server.exchanges) == (role in asked), role
        for exchange, _ in server.exchanges:
            sent = f"{exchange.target} {dict(exchange.headers)} {exchange.raw.decode()}"
            assert [owner for owner, key in keys.items() if key in sent] == [role]


@pytest.mark.parametrize("trouble", seldom(["", *(f"-{name}" for name in TROUBLE)], [""]))
def test_writer_critic_reviser_and_judge_on_four_servers_see_their_own_keys(
    trouble: str, servers: dict[str, Habits], tmp_path: Path
) -> None:
    rows = generate(servers, tmp_path / "run", trouble)
    assert [row.initial for row in rows] == [REPLY] * 3
    check_keys(servers, *ROLES)
    models = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["models"]
    assert set(models.values()) == {f"openai:tiny-{role}" for role in ROLES}
    for role, server in servers.items():  # of which the judge's is also asked what it knows
        asked = [each.payload["model"] for each in server.asked(role + trouble) if each.path.endswith("/completions")]
        assert asked and set(asked) == {f"tiny-{role}"}


def test_a_key_that_its_server_sends_back_goes_to_no_other(servers: dict[str, Habits], tmp_path: Path) -> None:
    """The critique is part of what the reviser is asked."""
    rows = generate(servers, tmp_path / "run", critic=spec(servers, "critic", "-echoes"))
    check_keys(servers, *ROLES)
    assert [turn.critique for row in rows for turn in row.rounds] == ["I was sent ***."] * 3


def test_four_vendors_in_one_run_see_their_own_keys(
    servers: dict[str, Habits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses and keys of their variables, as for proxies; the keys of hosts are none of theirs."""
    vendors = dict(zip(ROLES, ("openrouter", "mistral", "gemini", "azure"), strict=True))
    for role, vendor in vendors.items():
        monkeypatch.setenv(f"{vendor.upper()}_BASE_URL", servers[role].url(role))
        monkeypatch.setenv(f"{vendor.upper()}_API_KEY", key_of(role))
        monkeypatch.delenv(f"CAI_KEY_127_0_0_1_{servers[role].port}")
    writer, critic, reviser, judge = (f"{vendor}:tiny-{role}" for role, vendor in vendors.items())
    generate(servers, tmp_path / "run", model=writer, critic=critic, reviser=reviser, accept=judge)
    check_keys(servers, *ROLES)


def test_two_writers_and_a_judge_on_three_servers_see_their_own_keys(
    servers: dict[str, Habits], tmp_path: Path
) -> None:
    writers = [spec(servers, "writer"), spec(servers, "reviser", provider="groq")]
    list(cai.sample(PROMPTS, model=writers, best_of=2, judge=spec(servers, "judge"), out=tmp_path / "run"))
    check_keys(servers, "writer", "reviser", "judge")


def test_a_wrong_key_is_said_with_the_variable_of_its_host(servers: dict[str, Habits], tmp_path: Path) -> None:
    refuses = Mode(answer({"error": {"message": "Incorrect API key provided"}}, 401))
    with serving({"refuses": refuses}) as fifth, pytest.raises(AuthenticationFailed) as refused:
        generate(servers, tmp_path / "run", critic=f"openai:tiny@{fifth.url('refuses')}")
    assert f"; set CAI_KEY_127_0_0_1_{fifth.port}" in str(refused.value)
    assert all("Authorization" not in asked.headers for asked, _ in fifth.exchanges)
    check_keys(servers, "writer", "judge")  # whose server is asked what it knows


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_sends_no_key_to_another_host(status: int, servers: dict[str, Habits], tmp_path: Path) -> None:
    away = {"Location": f"{servers['reviser'].url('reviser')}/chat/completions"}
    with (
        serving({"moves": Mode(Answer(b"", status, away))}) as fifth,
        pytest.raises(ModelStopped, match="redirects to"),
    ):
        generate(servers, tmp_path / "run", critic=f"openai:tiny@{fifth.url('moves')}")
    check_keys(servers, "writer", "judge")  # whose server is asked what it knows


def test_no_file_of_a_run_holds_an_address_or_a_key(servers: dict[str, Habits], tmp_path: Path) -> None:
    generate(servers, tmp_path / "run", critic=f"{spec(servers, 'critic')}?code=hush-hush-4711")
    asked = servers["critic"].asked("critic")
    assert asked and all(each.target.endswith("?code=hush-hush-4711") for each in asked)
    for path in filter(Path.is_file, (tmp_path / "run").rglob("*")):
        content = path.read_bytes()
        assert b"127.0.0.1" not in content and b"hush-hush" not in content and b"Zq8vW2mT4xR7" not in content, path


def test_a_run_goes_on_when_a_server_has_moved(servers: dict[str, Habits], tmp_path: Path) -> None:
    generate(servers, tmp_path / "run", limit=2)
    before = len(servers["writer"].exchanges)
    with serving() as fifth:
        moved = f"openai:tiny-writer@{fifth.url('plain')}"
        assert len(generate(servers, tmp_path / "run", model=moved)) == 1  # the row that was not there
        assert len(servers["writer"].exchanges) == before and len(fifth.exchanges) == 1


def test_one_name_on_two_servers_is_one_model(servers: dict[str, Habits], tmp_path: Path) -> None:
    """Stored calls name no address: the second would be given the first one's replies."""
    models = [f"openai:tiny@{servers[role].url(role)}" for role in ("writer", "critic")]
    with pytest.raises(UsageError, match=r"openai:tiny@URL and --model openai:tiny@URL name one model: .* two names"):
        cai.sample(PROMPTS, model=models, out=tmp_path / "run")


def test_stored_answers_of_several_servers_are_played_again(servers: dict[str, Habits], tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = generate(servers, run, critic=spec(servers, "critic", provider="mistral"), accept=None)
    again = cai.generate(PROMPTS, "harmless", out=tmp_path / "again", rounds=1, gate=False, model=f"recorded:{run}")
    assert [(row.initial, row.final) for row in again] == [(row.initial, row.final) for row in rows]


def test_targets_ask_for_the_address_that_the_sample_run_did_not_keep(
    servers: dict[str, Habits], tmp_path: Path
) -> None:
    list(cai.sample(PROMPTS, model=spec(servers, "writer"), out=tmp_path / "replies"))
    with pytest.raises(UsageError, match="openai:tiny-writer@URL: files of runs keep no address"):
        cai.label(tmp_path / "replies", "harmless", judge=spec(servers, "judge"), target=1, max_candidates=4)
