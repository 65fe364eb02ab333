"""Whatever a server echoes, in whatever form: no secret of the connection is in what is read of it."""

from __future__ import annotations

import base64
import json
import logging
import string
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from habits import MODEL, REPLY, Answer, Asked, Mode, answer, chat, message, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

import cai
from cai.cli.main import main
from cai.errors import CaiError
from cai.folder.journal.store import read_calls
from cai.models.remote.secrets import LEAST, Secrets, secrets_of

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent-encoded": lambda secret: quote(secret, safe=""),
    "percent-encoded in lower case": lambda secret: quote(secret, safe="").lower(),
    "slashes left": quote,
    "with plus signs": quote_plus,
    "every byte percent-encoded": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "encoded twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "in JSON": lambda secret: json.dumps(secret)[1:-1],
    "in JSON in JSON": lambda secret: json.dumps(json.dumps(secret)[1:-1])[1:-1],
    "escaped in JSON": lambda secret: "".join(f"\\u{ord(char):04X}" for char in secret),
    "in capitals": str.upper,
    "in lower case": str.lower,
    "in HTML": lambda secret: secret.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"),
    "in base64": lambda secret: base64.b64encode(secret.encode()).decode(),
}
few = settings(max_examples=settings.default.max_examples // 4)  # every example compiles patterns, for up to 60 ms
SECRETS = st.text(string.ascii_letters + string.digits + " /+%&=\"\\'<>~!$*-_.", min_size=12, max_size=60).filter(
    lambda text: text.strip() == text and any(char.isdigit() for char in text)
)


@given(SECRETS, st.sampled_from(sorted(FORMS)), st.text(string.ascii_letters + " ", max_size=20))
def test_a_secret_is_found_in_every_form(secret: str, form: str, around: str) -> None:
    hidden = Secrets(values=[("X-Token", secret)])
    written = FORMS[form](secret)
    for place in (f"{around} {written} {around}", [{"a": written}], {"model": f"<{written}>"}):
        raw = json.dumps({"choices": place}).encode()
        cleaned = json.dumps(json.loads(hidden.clean(raw)))
        assert json.dumps(written)[1:-1] not in cleaned and "***" in cleaned
    assert written not in hidden.clean(f"<html>{written}".encode()).decode()
    assert written not in hidden.message(f"bad {written}")
    assert hidden.found == 4


@given(st.text(), st.text(string.ascii_letters, max_size=LEAST - 1))
def test_other_text_is_left_to_the_byte(text: str, short: str) -> None:
    raw = json.dumps({"choices": [text]}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    hidden = Secrets(short, [("X-Key", "9-nothing-that-is-said-9"), ("X-Pass", short)])
    assert hidden.clean(raw) is raw and hidden.found == 0


@few
@given(SECRETS, st.text(string.printable, max_size=20), st.text(string.printable, max_size=20), st.booleans())
def test_a_secret_is_found_inside_what_was_encoded_with_it(secret: str, before: str, after: str, safe: bool) -> None:
    encode = base64.urlsafe_b64encode if safe else base64.b64encode
    hidden = Secrets(values=[("X-Token", secret)])
    for text in (f"user:{secret}", f"Bearer {secret}", f":{secret}", f"{before}{secret}{after}"):
        written = encode(text.encode()).decode()
        for cleaned in (json.loads(hidden.clean(json.dumps([written]).encode()))[0], hidden.message(written)):
            # all characters of base64 that are of the secret alone
            assert "***" in cleaned and len(written) - len(cleaned.replace("***", "")) >= len(secret) * 8 // 6 - 2


@few
@given(
    SECRETS.filter(lambda secret: " " not in secret),
    st.integers(1, 11),
    st.sampled_from(["\n", "\r\n", " ", "\n    ", "\t"]),
)
def test_a_secret_that_a_line_break_cuts_is_found(secret: str, place: int, gap: str) -> None:
    secret = f"s7-{secret}"
    hidden = Secrets(secret, [("X-Token", secret)])
    written = f"key: {secret[:place]}{gap}{secret[place:]}"
    for raw in (json.dumps([written]), json.dumps([json.dumps([written])]), f"<p>{written}</p>"):
        cleaned = hidden.clean(raw.encode()).decode()
        assert "***" in cleaned and secret[:place] + gap not in cleaned and gap + secret[place:] not in cleaned
    assert hidden.message(" ".join(written.split())) == "key: ***"


@pytest.mark.parametrize("key", ["sk-secret", "topsecret", "hunterkey", "open-sesame", "qwertyuiop", "my-own-key"])
def test_a_key_that_could_be_a_word_is_left_out_where_it_stands_alone(key: str) -> None:
    hidden = Secrets(key)
    for echo in (key, f"so {key}.", f"'{key}'", f"a\n{key}\n", base64.b64encode(key.encode()).decode()):
        assert json.loads(hidden.clean(json.dumps([echo]).encode()))[0].count("***") == 1
        assert key not in hidden.message(echo)
    inside = json.dumps([f"un{key}", f"{key}s", f"{key}2"]).encode()
    assert hidden.clean(inside) is inside


@pytest.mark.parametrize("key", ["x", "abc", "test", "EMPTY", "ollama", "lm-studio", "not-needed", "placeholder"])
def test_a_key_that_is_a_word_or_short_does_not_blot_out_words(key: str) -> None:
    raw = json.dumps({"choices": [f"Ask {key} first."]}).encode()
    assert Secrets(key).clean(raw) is raw


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP-Referer", "https://example.org/app"), ("X-Title", "My Application 2000"), ("X-Team", "infrastructure"),
        ("api-version", "2024-06-01-preview"), ("Accept-Language", "en-GB,en;q=0.9"), ("X-Stage", "production"),
    ],
)  # fmt: skip
def test_what_says_who_asks_is_no_secret(name: str, value: str) -> None:
    raw = json.dumps({"choices": [value]}).encode()
    assert Secrets(values=[(name, value)]).clean(raw) is raw


@pytest.mark.parametrize("key", ["QWERTYUIOP", "supersecretkey", "Zaubertrank", "a1b2c3d4"])
def test_other_keys_are_left_out_of_answers_from_eight_characters_on(key: str) -> None:
    raw = json.dumps({"choices": [f"so{key}."]}).encode()
    assert key.encode() not in Secrets(key).clean(raw)


MIXED = st.text(string.ascii_letters + string.digits + "!$-_.+/", min_size=4, max_size=LEAST - 1).filter(
    lambda text: not text.isalpha() and any(map(str.isalpha, text)) and text[0].isalnum()
)


@few
@given(MIXED, st.sampled_from(sorted(FORMS)), st.sampled_from(["{}", "so {}.", "<{}>", "a\n{}", "a%20{}", "'{}', b"]))
def test_a_short_secret_with_letters_and_more_is_left_out_if_it_stands_alone(key: str, form: str, around: str) -> None:
    for hidden in (Secrets(key), Secrets(values=[("X-Token", key)])):
        echo = around.format(FORMS[form](key))
        cleaned = json.loads(hidden.clean(json.dumps([echo]).encode()))
        assert [text.replace("=", "") for text in cleaned] == [around.format("***")]  # the padding of base64
        assert FORMS[form](key) not in hidden.message(echo)
        for text in (f"q{key}q", f"q{key}", f"{key}q"):
            inside = json.dumps([text]).encode()
            assert hidden.clean(inside) is inside


@few
@given(st.text(string.ascii_letters + string.digits, min_size=1, max_size=LEAST - 1))
def test_behind_the_name_that_it_was_sent_under_a_value_of_any_length_is_left_out(value: str) -> None:
    hidden = Secrets(value, [("X-Gateway-Key", value), ("sig", value)])
    for before in ("Bearer ", "x-api-key: ", "'X-API-Key': '", "Authorization=", '"x-gateway-key": "', "?sig="):
        for raw in (json.dumps([f"{before}{value}"]).encode(), f"<p>{before}{value}</p>".encode()):
            assert f"{before}{value}" not in hidden.clean(raw).decode().replace("\\", "")
        longer = json.dumps([f"{before}{value}s"]).encode()
        assert value == "*" or hidden.clean(longer) is longer


def test_a_number_that_looks_like_a_secret_leaves_the_json_whole() -> None:
    raw = json.dumps({"created": 1764378123, "choices": ["1764378123"], "usage": float("nan")}).encode()
    body = json.loads(Secrets(values=[("sig", "1764378123")]).clean(raw))
    assert (body["created"], body["choices"]) == (1764378123, ["***"])


def test_names_and_passwords_of_basic_authentication_and_of_a_proxy_are_secrets() -> None:
    basic = base64.b64encode(b"anna:hunter-22").decode()
    base = URL("https://example.org/v1?sig=a%2Fb%2Bc9%3D%3D&team=blue")
    hidden = secrets_of("", {"Authorization": f"Basic {basic}"}, base, "http://bob:proxy%2Fpass-7@127.0.0.1:3128")
    proxy = base64.b64encode(b"bob:proxy/pass-7").decode()
    for echo in (basic, "anna:hunter-22", "hunter-22", "a/b+c9==", "A%2fb%2Bc9%3d%3D", "proxy/pass-7", proxy):
        assert echo not in hidden.clean(json.dumps({"choices": [f"so {echo}."]}).encode()).decode(), echo
    assert hidden.message("team blue") == "team blue"


# The whole way: a server that echoes what it was sent in all that it answers

KEY, HEADER, QUERY = "sk-Abc/123+secret", "hush hush/42", "w%isper+1/2=="


def echoing(form: Callable[[str], str], status: int = 200) -> Callable[[Asked], Answer]:
    """Answers with the path, the headers and the body of the request in every field that is text."""

    def reply(asked: Asked) -> Answer:
        sent = f"{asked.target} {asked.headers} {asked.raw.decode()}"
        echo = " ".join([*map(form, (KEY, HEADER, QUERY)), sent])
        if status != 200:
            return answer({"error": {"message": f"{REPLY} {echo}", "code": echo, "param": echo}}, status)
        if asked.path.endswith("/messages"):
            return answer(message(f"{REPLY} {echo}", stop=f"end_turn {echo}", model=f"{MODEL} {echo}", id=echo))
        return answer(
            chat(f"{REPLY} {echo}", f"stop {echo}", model=f"{MODEL} {echo}", id=echo, system_fingerprint=echo)
        )

    return reply


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize("form", ["as it is", "percent-encoded in lower case", "with plus signs", "escaped in JSON"])
def test_nothing_that_a_run_writes_or_says_holds_a_secret_of_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, provider: str, status: int, form: str
) -> None:
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", KEY)
    said = ""
    with serving({"echo": Mode(echoing(FORMS[form], status), sends=(REPLY.encode(),))}) as server:
        url = f"{server.url('echo')}?token={quote(QUERY, safe='')}"
        options: dict[str, Any] = {"base_url": url, "headers": {"X-Gateway-Key": HEADER}, "rounds": 1}
        try:
            run = cai.generate(["hello"], "harmless", model=f"{provider}:m", out=tmp_path / "run", **options)
            said = json.dumps([row.model_dump(mode="json") for row in run])
        except CaiError as error:
            said = f"{error} {error.__cause__} {error.__context__}"
    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    shown = capfd.readouterr()
    everything = (written.decode("utf-8", "replace") + said + shown.out + shown.err).lower()
    for secret in (KEY, HEADER, QUERY):
        for write in FORMS.values():
            assert write(secret).lower() not in everything
    assert server.asked("echo"), "nothing was asked"
    if status == 200:
        assert json.loads((tmp_path / "run" / "run.json").read_text())["secrets_hidden"]


@pytest.mark.parametrize("key", ["sk-secret", "sk-proj-Zq8+vW2m/T4xR7"])
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_no_key_is_in_what_the_command_line_prints_or_writes(
    key: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    def reply(asked: Asked) -> Answer:
        echo = "; ".join(write(key) for write in FORMS.values())
        if status == 200:
            return answer(chat(f"{REPLY} {echo}", model=echo))
        more = {"Retry-After": "999"} if status in (429, 503) else {}
        return answer({"error": {"message": f"no {echo}", "code": echo, "param": echo}, "detail": echo}, status, **more)

    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setattr("cai.calls.limits.BACKOFF", 0.001)
    with serving({"echo": Mode(reply)}) as server:
        (tmp_path / "two.txt").write_text("hello\nbye\n")
        words = ["--debug", "sample", str(tmp_path / "two.txt"), "--model", "openai:m", "-n", "1", "--json"]
        words += ["--out", str(tmp_path / "run")]
        monkeypatch.setattr("sys.argv", ["cai", *words, "--base-url", server.url("echo")])
        log = logging.getLogger("cai")
        level = log.level
        monkeypatch.setattr(log, "handlers", list(log.handlers))
        with suppress(SystemExit, CaiError):
            main()
        log.setLevel(level)
    said = capfdbinary.readouterr()
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    stored = repr([call.completion for call in read_calls(tmp_path / "run")]) if written else ""
    everything = b"".join([said.out, said.err, *written, stored.encode()]).decode("utf-8", "replace").lower()
    assert "***" in everything
    for write in FORMS.values():
        assert write(key).lower() not in everything


def test_what_was_hidden_stays_hidden_when_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings: dict[str, Any] = {"model": "openai:m", "out": tmp_path / "run", "rounds": 1}
    with serving({"echo": Mode(echoing(str), sends=(KEY.encode(),))}) as server:
        first = list(cai.generate(["hello"], "harmless", base_url=server.url("echo"), **settings))
        asked = len(server.asked("echo"))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-another-1234567")
        more = list(cai.generate(["hello", "bye"], "harmless", base_url=server.url("echo"), **settings))
        assert len(server.asked("echo")) == 2 * asked  # for the new prompt alone
    assert [row.prompt[0]["content"] for row in more] == ["bye"]
    stored = [json.loads(line) for line in (tmp_path / "run" / "revisions.jsonl").read_text().splitlines()]
    assert stored[0]["initial"] == first[0].initial and "***" in first[0].initial and KEY not in first[0].initial
