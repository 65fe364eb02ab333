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


def camel(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join(map(str.capitalize, rest))


@pytest.mark.parametrize("status", [400, 403, 404, 422, 501])
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
        lambda f: {"errors": [{"instancePath": f"/{f}", "keyword": "maximum", "message": "must be <= 1"}]},
        lambda f: {"error": "no", "instancePath": "", "params": {"additionalProperty": f}},
        lambda f: {"title": "not valid", "status": 400, "errors": [{"detail": "an integer", "pointer": f"#/{f}"}]},
        lambda f: {"errors": [{"source": {"pointer": f"/{f}"}, "title": "Invalid", "detail": "not that"}]},
        lambda f: {"message": "not valid", "details": [{"path": [f], "type": "object.unknown"}]},
        lambda f: {"message": "bad payload", "validation": {"source": "payload", "keys": [f]}},
        lambda f: {"error": {"issues": [{"code": "unrecognized_keys", "keys": [f], "path": [], "message": "no"}]}},
        lambda f: {"error": {"message": "no", "details": [{"fieldViolations": [{"field": f, "description": "x"}]}]}},
        lambda f: {"status": 400, "error": "Bad Request", "errors": [{"field": f, "defaultMessage": "too big"}]},
        lambda f: {"statusCode": 400, "message": [f"property {f} should not exist"], "error": "Bad Request"},
        lambda f: {"error": {"message": "no", "param": f"$.parameters.{f}"}},
        lambda f: {"message": f'json: unknown field "{f}"'},
        lambda f: {"message": f"Malformed request: #: extraneous key [{f}] is not permitted"},
        lambda f: {"message": f"Malformed request: #/{f}: 2 is not less or equal to 1"},
        lambda f: {"Message": f"Invalid field: {f.capitalize()}"},
        lambda f: {"error": f"the field {camel(f)} is not enabled for this model"},
        lambda f: {"error": f"Unknown property &quot;{f}&quot;"},
        lambda f: f"unknown field `{f}`, expected one of `model`, `min_p`, `seed`, `temperature`, `stop`, `logprobs`",
        lambda f: {"message": f"Unrecognized field '{f}' (3 known properties: 'model', 'seed', 'temperature')"},
        lambda f: {"error": f"does not support parameters: ['{f}']; or send allowed_openai_params=['seed', 'stop']"},
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
        "top_logprobs should be in [0, 8]",
        "topLogprobs must be <= 8",
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
        "The model seed-oss-36b cannot read this",
        "the top-p-seed of this request is not allowed",
        "The prompt is invalid",
        "invalid UTF-8",
    ],
)
def test_words_that_quote_a_prompt_or_name_no_field_cost_one_row(words: str) -> None:
    assert meaning_of(read_error(400, {}, json.dumps({"error": words}).encode()), PAYLOAD) == "refused"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("The maximum tokens you requested exceeds the model limit of 256", "max_tokens"),
        ("maxOutputTokens is 512, but the supported range is from 1 to 256", "max_tokens"),
        ("Malformed request: #/maxTokens: 512 is not less or equal to 256", "max_tokens"),
        ("This model doesn't support the stopSequences field.", "stop"),
        ("Argument not supported on this model: stop", "stop"),
    ],
)
def test_a_field_is_known_under_the_names_of_other_protocols(words: str, field: str) -> None:
    found = read_error(400, {}, json.dumps({"error": words}).encode())
    assert (meaning_of(found, PAYLOAD), refused_fields(found, PAYLOAD)) == ("setting", [field])


def test_a_limit_of_the_reply_that_names_the_context_is_a_setting() -> None:
    body = {"error": {"message": "at most 256, which is less than the context_window", "param": "max_tokens"}}
    assert meaning_of(read_error(400, {}, json.dumps(body).encode()), PAYLOAD) == "setting"
    body["error"]["message"] = "512 is too large: the context length is 4096, and your request has 4000 input tokens"
    assert meaning_of(read_error(400, {}, json.dumps(body).encode()), PAYLOAD) == "too_long"


@pytest.mark.parametrize(
    "words",
    ["parameter.enable_thinking must be set to false for whole replies", "This model only supports stream mode"],
)
def test_a_setting_that_is_missing_ends_the_run_with_the_servers_words(words: str) -> None:
    found = read_error(400, {}, json.dumps({"error": {"message": words, "code": "bad"}}).encode())
    assert meaning_of(found, PAYLOAD) == "setting" and "--extra-body" in way_out(found, PAYLOAD)


def test_routers_say_that_nobody_takes_a_field() -> None:
    found = read_error(404, {}, b'{"error": {"message": "No endpoints found that support logprobs", "code": 404}}')
    assert meaning_of(found, PAYLOAD) == "setting" and "--protocol vote" in way_out(found, PAYLOAD)
