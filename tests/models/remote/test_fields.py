"""Fields of a request that servers refuse, each in its own words, and what is said to do about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cai.models.remote.failures import read_error
from cai.models.remote.fields import refused_fields, way_out
from cai.models.remote.meanings import meaning_of

PAYLOAD = {
    "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 512, "temperature": 0.5, "seed": 7,
    "stop": ["END"], "logprobs": True, "top_logprobs": 20, "continue_final_message": True, "top_p": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("field", ["seed", "temperature", "logprobs", "top_logprobs", "max_tokens", "stop", "top_p"])
@pytest.mark.parametrize(
    "body",
    [
        lambda f: [{"error": {"message": f'Invalid JSON payload received. Unknown name "{f}": Cannot find field.'}}],
        lambda f: {"detail": [{"type": "extra_forbidden", "loc": ["body", f], "msg": "Extra inputs not permitted"}]},
        lambda f: {"detail": f"body -> {f}\n  Extra inputs are not permitted (type=extra_forbidden)"},
        lambda f: {"error": {"message": f"Unsupported parameter: '{f}' is not supported here.", "param": f}},
        lambda f: {"error": {"message": f"property '{f}' is unsupported"}},
        lambda f: {"error": {"message": f"Unrecognized request argument supplied: {f}"}},
        lambda f: {"object": "error", "message": f"[{{'type': 'extra_forbidden', 'loc': ('body', '{f}')}}]"},
        lambda f: {"message": f"models of this family don't support {f}=1. Only another value is supported."},
        lambda f: {"error": f"`{f}` must be between 0 and 1"},
        lambda f: {"errors": [{"message": f"body/{f} is an additional property"}]},
        lambda f: {"message": f"body.{f}: extra property"},
        lambda f: {"error": f"/{f}: additional property not allowed"},
        lambda f: {"detail": f"$.{f} is not a supported property"},
        lambda f: {"error": {"message": f"#/{f} is unexpected"}},
        lambda f: {"error": {"message": f"schema error at properties/{f}: not allowed"}},
        lambda f: {"errors": [{"loc": ["body", f], "message": "extra fields not permitted"}]},
    ],
)  # fmt: skip
def test_a_field_that_is_refused_is_named_with_what_leaves_it_out(status: int, body: Any, field: str) -> None:
    found = read_error(status, {}, json.dumps(body(field)).encode())
    assert meaning_of(found, PAYLOAD) == "setting"
    assert refused_fields(found, PAYLOAD) == [field]
    assert "--extra-body" in way_out(found, PAYLOAD) and f'"{field}": null' in way_out(found, PAYLOAD)


def test_what_does_better_than_leaving_a_field_out_is_said() -> None:
    found = read_error(
        400, {}, b'{"error": {"message": "\'max_tokens\' is not supported. Use \'max_completion_tokens\' instead."}}'
    )
    assert """'{"max_tokens": null, "max_completion_tokens": 512}'""" in way_out(found, PAYLOAD)
    found = read_error(400, {}, b'{"error": {"message": "logprobs is not supported with this model"}}')
    assert way_out(found, PAYLOAD).startswith(
        "ask a judge with --protocol vote, or leave logprobs and top_logprobs out"
    )


@pytest.mark.parametrize(
    "words",
    [
        "Invalid value for 'top_logprobs': must be less than or equal to 8.",
        "top_logprobs is limited to at most 8",
        "Requested sample top_logprobs of 20, which is greater than max allowed: 8",
        "Requested sample logprobs of 20, which is greater than max allowed: 8",
        "top_logprobs must be between 0 and 8",
    ],
)
def test_a_server_that_lists_fewer_tokens_is_asked_for_as_many_as_it_lists(words: str) -> None:
    found = read_error(400, {}, json.dumps({"error": {"message": words}}).encode())
    assert meaning_of(found, PAYLOAD) == "setting"
    assert way_out(found, PAYLOAD) == "ask for fewer with --extra-body '{\"top_logprobs\": 8}'"


@pytest.mark.parametrize(
    "words",
    [
        "messages[0].content: '`seed` is not supported' cannot be parsed",
        "Invalid content: 'why is temperature unsupported?'",
        "this prompt is invalid: why is the seed not supported?",
        "Bad request: stop here, please, this is invalid",
        "The prompt is invalid",
        "invalid UTF-8",
    ],
)
def test_words_that_quote_a_prompt_or_name_no_field_cost_one_row(words: str) -> None:
    assert meaning_of(read_error(400, {}, json.dumps({"error": words}).encode()), PAYLOAD) == "refused"


def test_routers_say_that_nobody_takes_a_field() -> None:
    found = read_error(404, {}, b'{"error": {"message": "No endpoints found that support logprobs", "code": 404}}')
    assert meaning_of(found, PAYLOAD) == "setting" and "--protocol vote" in way_out(found, PAYLOAD)
