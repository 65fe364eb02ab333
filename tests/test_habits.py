"""The server of habits sends what its table says."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Iterator

import pytest
from habits import JSON, MODES, REPLY, Answer, Habits, Mode, about, answer, at_first, chat, says, serving

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages")
QUESTION = json.dumps({"model": "m", "messages": [{"role": "user", "content": "How do I keep bread fresh?"}]}).encode()


def received(server: Habits, mode: str, path: str, body: bytes = QUESTION, most: int = 2**20) -> bytes:
    """The bytes of the answer to one request, at most `most` of its end."""
    head = f"POST /{mode}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        parts = b""
        while len(parts) < most and (part := connection.recv(2**16)):
            parts += part
    return parts


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_sends_the_bytes_that_it_names(mode: str) -> None:
    with serving() as server:
        for path in PATHS:
            bytes_in = received(server, mode, path)
            [asked, sent] = server.exchanges[-1]
            assert (asked.path, asked.raw) == (path, QUESTION)
            assert bytes_in.startswith(sent.head)
            if isinstance(sent.body, bytes):
                assert bytes_in == sent.head + sent.body


def test_a_mode_that_does_not_send_what_it_names_fails_the_test() -> None:
    odd = {"odd": Mode(says(), sends=(b"nothing of this",))}
    with pytest.raises(AssertionError, match="the mode odd did not send"), serving(odd) as server:
        received(server, "odd", PATHS[0])


def test_a_habit_may_depend_on_what_is_asked_and_how_often() -> None:
    busy = answer({"error": "busy"}, 429, Retry_After="1")
    modes = {
        "twice": Mode(at_first(2, busy)),
        "bread": Mode(about("bread", Answer(b"<html>", 403, {}))),
        "plain": Mode(answer(chat())),
    }
    with serving(modes) as server:
        replies = [received(server, "twice", PATHS[0]) for _ in range(3)]
        assert [reply.split()[1] for reply in replies] == [b"429", b"429", b"200"]
        assert replies[0] == busy.head + b'{"error": "busy"}' and b"Retry-After: 1\r\n" in replies[0]
        assert received(server, "bread", PATHS[2]).endswith(b"<html>")
        assert REPLY.encode() in received(server, "bread", PATHS[2], b"{}")
        assert [asked.number for asked in server.asked("twice")] == [1, 2, 3]


def test_a_body_may_have_no_end() -> None:
    def spaces() -> Iterator[bytes]:
        return itertools.repeat(b" " * 1024)

    with serving({"endless": Mode(Answer(spaces, headers=JSON))}) as server:
        assert len(received(server, "endless", PATHS[0], most=2**18)) >= 2**18
