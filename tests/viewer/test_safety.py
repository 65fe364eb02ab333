"""Who is answered: only a page of this machine that has the token, and nobody learns more from a refusal."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import label_cuts
import pytest
from seldom import seldom
from viewers import Viewer, viewer

from cai.viewer import safety
from cai.viewer.questions import QUESTIONS
from cai.viewer.server import PAGE

SECRET = "the reply of a run"
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
    "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
}  # fmt: skip
ASKED = b'{"source": 0}'


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    labels = [label_cuts.pair(at, z=1.0, a=f"{SECRET} {at}") for at in range(3)]
    folder = label_cuts.make_run(tmp_path_factory.mktemp("viewed") / "labels", labels)
    with viewer(folder) as running:
        yield running


def refused(answer: Any, status: int = 403) -> None:
    assert answer.status == status
    assert SECRET.encode() not in answer.body
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_page_with_the_token_is_answered(opened: Viewer) -> None:
    assert SECRET in opened.ask("row", source=0, number=0).body.decode()


def test_only_this_machine_is_listened_to(opened: Viewer) -> None:
    assert opened.address.startswith("http://127.0.0.1:")
    for other in ("127.0.0.2", "127.1.2.3"):  # other addresses of the same machine
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, opened.port), timeout=5).close()


def test_every_viewer_has_a_port_and_a_token_of_its_own(opened: Viewer, tmp_path: Path) -> None:
    folder = label_cuts.make_run(tmp_path / "labels", [label_cuts.pair(0, z=1.0)])
    with viewer(folder) as other:
        assert other.port != opened.port
        assert other.token != opened.token
        refused(other.send("POST", "/api/state", {**other.own(), "X-Cai-Token": opened.token}, ASKED))


def test_the_token_is_192_bits_of_chance(opened: Viewer) -> None:
    assert len(base64.urlsafe_b64decode(opened.token)) * 8 == 192
    assert len({safety.new_token() for _ in range(100)}) == 100


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    assert safety._is("right", "right")
    assert not safety._is("right", "wrong")
    assert not safety._is("right", "r\udcff")
    assert len(compared) == 3


@pytest.mark.parametrize("question", [*QUESTIONS, "nothing", "../viewer.js"])
@pytest.mark.parametrize(
    "token", ["", "short", "A" * 32, "ü", b"\xff\xfe", "half", "longer", "none"], ids=lambda token: repr(token)
)
def test_without_the_token_nothing_is_answered(opened: Viewer, question: str, token: str | bytes) -> None:
    headers = opened.own()
    headers["X-Cai-Token"] = {"half": opened.token[:16], "longer": f"{opened.token}A"}.get(token, token)  # type: ignore[call-overload]
    if token == "none":
        del headers["X-Cai-Token"]
    refused(opened.send("POST", f"/api/{question}", headers, ASKED))


@pytest.mark.parametrize("place", ["query", "Authorization", "Cookie", "path"])
def test_the_token_counts_only_in_its_header(opened: Viewer, place: str) -> None:
    headers = opened.own()
    del headers["X-Cai-Token"]
    path = "/api/state"
    if place == "query":
        path = f"{path}?token={opened.token}&X-Cai-Token={opened.token}"
    elif place == "path":
        path = f"{path}/{opened.token}"
    else:
        headers[place] = f"X-Cai-Token={opened.token}"
    refused(opened.send("POST", path, headers, ASKED))


@pytest.mark.parametrize(
    "host",
    [
        "example.com", "example.com:{port}", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1:{port}.example.com",
        "127.0.0.1.example.com:{port}", "[::1]:{port}", "0.0.0.0:{port}", "2130706433:{port}", "127.1:{port}", "",
        "LOCALHOST.:{port}", "user@127.0.0.1:{port}", " ",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/viewer.js", "/api/state"])
def test_a_request_by_another_name_is_refused(opened: Viewer, host: str, path: str) -> None:
    method = "POST" if path.startswith("/api") else "GET"
    refused(opened.send(method, path, {**opened.own(), "Host": host.format(port=opened.port)}))


def test_a_request_with_no_name_or_two_is_refused(opened: Viewer) -> None:
    own = f"Host: 127.0.0.1:{opened.port}\r\n".encode()
    for names in (b"", own + own, own + b"Host: example.com\r\n"):
        answer = opened.raw(b"GET / HTTP/1.1\r\n" + names + b"Connection: close\r\n\r\n")
        assert answer.split(b" ", 2)[1] in (b"400", b"403")
        assert b"<html" not in answer
    assert b"200" in opened.raw(b"GET / HTTP/1.1\r\n" + own + b"Connection: close\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize("server", ["http://example.com", "https://example.com", "http://127.0.0.1:{port}"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/viewer.js"), ("POST", "/api/state")])
def test_a_request_that_is_meant_for_a_proxy_is_refused(opened: Viewer, server: str, method: str, path: str) -> None:
    own = {**opened.own(), "Connection": "close", "Content-Length": "2"}
    lines = [f"{method} {server.format(port=opened.port)}{path} HTTP/1.1", *(f"{a}: {b!s}" for a, b in own.items())]
    answer = opened.raw("\r\n".join([*lines, "", "{}"]).encode())
    assert answer.split(b" ", 2)[1] == b"403"
    assert SECRET.encode() not in answer and b"<html" not in answer


def test_the_machine_may_be_called_localhost(opened: Viewer) -> None:
    headers = {**opened.own(), "Host": f"localhost:{opened.port}", "Origin": f"http://localhost:{opened.port}"}
    assert opened.send("POST", "/api/state", headers, b"{}").status == 200


@pytest.mark.parametrize(
    "origin",
    ["null", "http://example.com", "https://127.0.0.1:{port}", "http://127.0.0.1", "http://127.0.0.1:1", "file://", ""],
)
@pytest.mark.parametrize("path", ["/", "/api/state", "/api/vote"])
def test_a_request_from_another_site_is_refused(opened: Viewer, origin: str, path: str) -> None:
    headers = {**opened.own(), "Origin": origin.format(port=opened.port)}
    refused(opened.send("GET" if path == "/" else "POST", path, headers))


def test_another_site_may_not_ask_first(opened: Viewer) -> None:
    headers = {
        "Host": f"127.0.0.1:{opened.port}", "Origin": "http://example.com",
        "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-Cai-Token",
    }  # fmt: skip
    refused(opened.send("OPTIONS", "/api/state", headers))


def directives(policy: str) -> Mapping[str, str]:
    return dict(each.strip().split(" ", 1) for each in policy.split(";") if each.strip())  # type: ignore[misc]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        *(("GET", path, b"", 200) for path in PAGE),
        ("POST", "/api/state", b"{}", 200),
        ("POST", "/api/state", b"[1", 400),
        ("POST", "/api/row", b'{"source": 9, "number": 0}', 409),
        ("POST", "/api/nothing", b"{}", 404),
        ("GET", "/api/state", b"", 405),
        ("GET", "/nothing", b"", 404),
        ("POST", "/api/state", b" " * 70_000, 413),
    ],
)
def test_every_answer_says_what_a_page_may_do(opened: Viewer, method: str, path: str, body: bytes, status: int) -> None:
    answer = opened.send(method, path, opened.own(), body)
    assert answer.status == status
    assert directives(answer.headers["Content-Security-Policy"]) == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_refusal_has_the_same_headers(opened: Viewer) -> None:
    answer = opened.send("GET", "/", {"Host": "example.com"})
    assert {*safety.HEADERS.items()} <= {*answer.headers.items()}


def test_the_files_of_the_page_hold_no_data_and_need_no_inline_code(opened: Viewer) -> None:
    headers = {"Host": f"127.0.0.1:{opened.port}"}
    for path in PAGE:
        answer = opened.send("GET", path, headers)
        assert answer.status == 200
        assert SECRET not in answer.body.decode()
        assert opened.token not in answer.body.decode()
    page = opened.send("GET", "/", headers).body.decode()
    assert "style=" not in page and " on" not in page.replace(" on</", "").replace(" one", "").replace(" only", "")
    assert page.count("<script") == page.count("<script src=")


def test_no_script_makes_markup_of_text() -> None:
    for path, (_, name, _) in PAGE.items():
        if path.endswith(".js"):
            source = (
                Path(safety.__file__).parents[1] / ("viewer" if "page/" in name else "report/html") / name
            ).read_text()
            for word in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "srcdoc",
            ):
                assert word not in source


def test_a_body_may_have_64_kilobytes(opened: Viewer) -> None:
    def body(size: int) -> bytes:
        empty = json.dumps({"source": 0, "words": ""}).encode()
        return empty.replace(b'""', b'"' + b"w" * (size - len(empty)) + b'"')

    assert opened.send("POST", "/api/rows", opened.own(), body(64 * 1024)).status == 200
    assert opened.send("POST", "/api/rows", opened.own(), body(64 * 1024 + 1)).status == 413
    head = "".join(f"{name}: {value}\r\n" for name, value in opened.own().items())  # type: ignore[str-bytes-safe]
    chunk = b"%x\r\n%s\r\n" % (40_000, b" " * 40_000)
    request = f"POST /api/state HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
    assert b" 413 " in opened.raw(request + chunk + chunk + b"0\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/page/index.html", "/viewer.css/../../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd", "/api/../viewer.py", "/labels.jsonl", "/.lock", "/view.js%00.txt", "/VIEW.JS",
    ],
)  # fmt: skip
def test_no_path_of_a_request_names_a_file(opened: Viewer, path: str) -> None:
    refused(opened.send("GET", path, opened.own()), 404)


@pytest.mark.parametrize(
    "values",
    [
        {"source": 0, "number": 0, "folder": "/etc"},
        {"source": "/etc", "number": 0},
        {"source": -1, "number": 0},
        {"source": 0, "number": "../0"},
        {"source": 0},
        {"source": 0, "number": 1.5},
        {"source": 10**30, "number": 10**30},
        {"source": 0, "number": 10**30},
    ],
)
def test_what_is_asked_for_is_a_number_and_never_a_path(opened: Viewer, values: dict[str, Any]) -> None:
    answer = opened.ask("row", **values)
    assert answer.status in (400, 409)
    assert "problem" in answer.values


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n"],
)
def test_what_is_not_http_is_refused_without_a_word_in_the_terminal(opened: Viewer, request_: bytes) -> None:
    assert SECRET.encode() not in opened.raw(request_, last=True)  # the fixture looks at the terminal


def crowd(running: Viewer) -> list[socket.socket]:
    """More connections than a viewer may have open; the first waits for the end of its request."""
    running.limit_files(40)
    connections = [socket.create_connection(("127.0.0.1", running.port), timeout=30) for _ in range(80)]
    head = "".join(f"{name}: {value}\r\n" for name, value in running.own().items())  # type: ignore[str-bytes-safe]
    connections[0].sendall(f"POST /api/state HTTP/1.1\r\n{head}Content-Length: 10\r\n\r\n".encode())
    return connections


@pytest.mark.parametrize("last", seldom([False, True], [False]))
def test_too_many_connections_say_nothing_in_the_terminal_and_do_no_lasting_harm(tmp_path: Path, last: bool) -> None:
    folder = label_cuts.make_run(tmp_path / "labels", [label_cuts.pair(0, z=1.0)])
    with ExitStack() as stack, viewer(folder, alone=True) as running:  # which looks at the terminal when it ends
        for connection in crowd(running):
            stack.enter_context(connection)
        time.sleep(0.5 if last else 1.5)  # asyncio tries again after one second, also if the viewer ends before
        if not last:
            stack.close()
            assert running.ask("state").status == 200
