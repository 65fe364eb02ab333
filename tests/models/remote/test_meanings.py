"""What servers say of the same fault, each in its own words and with a status of its own."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from cai.models.remote.failures import error_inside, read_error
from cai.models.remote.meanings import is_too_long, meaning_of

PAYLOAD = {
    "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 512, "temperature": 0.5, "seed": 7,
    "stop": ["END"], "logprobs": True, "top_logprobs": 20, "continue_final_message": True, "top_p": 0.9,
}  # fmt: skip


def meant(status: int, body: Any, **headers: str) -> str:
    """What an error body means; text stands for a message in OpenAI's shape."""
    if isinstance(body, str):
        body = {"error": {"message": body, "type": "invalid_request_error"}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return meaning_of(read_error(status, named, json.dumps(body).encode()), PAYLOAD)


# Longer than the model reads

TOO_LONG = [
    "the longest context this model reads is 8192 tokens, and 9120 were sent: the context length is exceeded",
    "The conversation has 9120 tokens, which exceeds what fits into a window of 8192",
    "prompt (9120 tokens) does not fit the context of 8192",
    "Your messages amount to 9120 tokens; the maximum is 8192",
    "input is longer than the 8192 tokens this deployment was started with: reduce its length",
    "The input token count of 9120 is above; this model only supports 8192",
    "sequence length 9120 is larger than max_model_len 8192",
    "prompt length 9120 > max_seq_len: limit exceeded",
    "context overflow: 9120 tokens",
    "Context size has been exceeded",
    "the available context size is exceeded by this request",
    "slot context is full: prompt too long for n_ctx",
    "Prompt is too long",
    "Input too large for this model: 9120 tokens",
    "Please shorten the conversation: its length of 9120 tokens is over the limit",
    "Too many input tokens: 9120, limit 8192",
    "token limit exceeded",
    "request exceeded model token limit 8192",
    "Range of input length should be [1, 8192]",
    "`inputs` tokens + `max_new_tokens` must be <= 8192, and were 9120 + 512",
    "inputs must have less than 8192 tokens, 9120 were given",
    "input length and `max_tokens` exceed context limit: 9120 + 512 > 8192",
    "'max_tokens' is too large: 512. The context length is at most 8192 tokens and 8000 are in the input",
    "ContextWindowExceededError: the prompt has 9120 tokens, more than the maximum",
    "InputTooLongError: prompt too long",
    "sequence length 9120 > 8192",
    "the message is too long",
    "n_ctx is exceeded",
    "9120 tokens are over the limit of this model",
    "Prompt 超长",
    "输入内容的长度超过模型的上限",
]
NOT_TOO_LONG = [
    "max_tokens is too large: 9000. This model writes at most 4096 completion tokens",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 4096]",
    "max_tokens: 9000 > 4096, which is the maximum allowed number of output tokens",
    "Range of max_tokens should be [1, 4096]",
    "max_completion_tokens exceeds the limit of this model, which is 4096 output tokens",
    "max_new_tokens must be <= 512. Given: 1024",
    "maxOutputTokens must be at most 4096",
    "Rate limit reached on tokens per min (TPM): limit 30000, used 29500, requested 900. Please try again in 800ms",
    "This would exceed your rate limit of 40,000 input tokens per minute",
    "Too many tokens, please wait before trying again.",
    "Tokens per day limit exceeded: TPD 100000",
    "You exceeded your monthly token quota",
    "Your daily token limit exceeded the input allowance",
    "Too many requests",
    "Too many concurrent requests for this model",
    "Input should be less than or equal to 2",
    "max_tokens: Input should be greater than 0",
    "temperature: Input should be at most 2",
    "stop: a list with maximum length 4, not 5",
    "top_logprobs must be less than or equal to 20",
    "n is too large: at most 8 choices",
    "Insufficient credits: this request would cost more than the input budget of tokens",
    "the API token has expired",
    "unexpected token < in JSON at position 0",
    "CUDA error: an illegal memory access was encountered",
    "Internal server error",
    "context deadline exceeded",
    "the server took too long to read the input",
    "usage limit exceeded for input tokens this month",
    "prompt_logprobs is larger than the maximum of 20",
    "`max_tokens` must be greater than `thinking.budget_tokens`; see https://api.test/limits#context-window-exceeded",
    "thinking.budget_tokens: Input should be greater than or equal to 1024",
]


@pytest.mark.parametrize("words", TOO_LONG)
def test_a_conversation_that_is_too_long_is_known_in_any_words(words: str) -> None:
    assert is_too_long(words)
    for status, wrap in itertools.product((400, 413, 422, 500, 503), SHAPES):
        assert meant(status, wrap(words)) == "too_long"


@pytest.mark.parametrize("words", NOT_TOO_LONG)
def test_limits_of_what_is_written_and_of_tokens_in_some_time_are_not_a_conversation_that_is_too_long(
    words: str,
) -> None:
    assert not is_too_long(words)


@pytest.mark.parametrize(
    "code",
    [
        "context_length_exceeded", "string_above_max_length", "request_too_large", "exceed_context_size_error",
        "model_max_prompt_tokens_exceeded", "tokens_limit_reached", "ContextWindowExceededError", "prompt_too_long",
    ],
)  # fmt: skip
def test_a_code_alone_says_that_a_conversation_is_too_long(code: str) -> None:
    assert meant(400, {"error": {"message": "Bad request", "code": code}}) == "too_long"
    assert meant(500, {"error": {"type": code}}) == "too_long"


SHAPES = [
    lambda words: {"error": {"message": words, "type": "invalid_request_error", "param": None, "code": 400}},
    lambda words: [{"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}}],
    lambda words: {"error": words},
    lambda words: {"code": "Client specified an invalid argument", "error": words},
    lambda words: {"object": "error", "message": words, "type": "BadRequestError", "code": 400},
    lambda words: {"detail": words},
    lambda words: {"detail": [{"type": "value_error", "loc": ["body"], "msg": words}]},
    lambda words: {"detail": {"error": {"message": words}}},
    lambda words: {"errors": [{"message": words, "code": 7}]},
    lambda words: {"message": words},
    lambda words: {"error": json.dumps({"error": {"message": words}})},
    lambda words: {"error": {"message": "The upstream failed", "metadata": {"raw": words, "provider_name": "x"}}},
    lambda words: {"error": {"message": json.dumps([{"error": {"message": words}}])}},
    lambda words: {"Error": {"Code": "Bad", "Message": words}},
    lambda words: {"Response": {"Error": {"Message": words}}},
    lambda words: {"base_resp": {"status_code": 7, "status_msg": words}},
    lambda words: {"error_code": 7, "error_msg": words},
    lambda words: {"statusCode": 400, "error": "Bad Request", "message": [words]},
    lambda words: {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": words},
    lambda words: {"error": {"name": "E", "issues": [{"code": "custom", "path": [], "message": words}]}},
    lambda words: {"error_code": "BAD", "message": json.dumps({"external_model_error": {"message": words}})},
    lambda words: {"success": False, "errors": [{"code": 1, "message": "no", "error_chain": [{"message": words}]}]},
    lambda words: words,
]


@pytest.mark.parametrize("wrap", SHAPES)
def test_the_words_of_an_error_are_read_in_any_shape(wrap: Any) -> None:
    found = read_error(400, {}, json.dumps(wrap("the cat sat on it")).encode())
    assert "the cat sat on it" in found.message and "{" not in found.message


def test_what_an_unknown_shape_holds_is_quoted_as_it_came() -> None:
    found = read_error(400, {}, b'{"outcome": {"verdict": "the guardrail was triggered"}}')
    assert found.message == '{"outcome": {"verdict": "the guardrail was triggered"}}'
    assert meaning_of(found, PAYLOAD) == "filtered"


def test_what_a_server_echoes_of_the_request_is_not_taken_for_its_words() -> None:
    sent = {"messages": [{"role": "user", "content": "my credit balance is too low"}], "message": "ignored"}
    body = {"error": {"message": "no"}, "request": sent, "input": [sent], "body": sent, "ctx": {"prompt": sent}}
    assert read_error(400, {}, json.dumps(body).encode()).said == ("no",)


def test_an_error_of_any_size_is_read_in_no_time() -> None:
    body = {"errors": [{"errors": [{"errors": [{"msg": f"text {i} {j} {k}"} for i in range(20)]} for j in range(20)]}
            for k in range(20)]}  # fmt: skip
    assert len(read_error(400, {}, json.dumps(body).encode()).said) == 100


def test_equal_words_at_two_places_are_said_once() -> None:
    body = {
        "error": {
            "message": "too many: wait",
            "details": [{"description": "too many: wait"}, {"msg": "too many: wait"}],
        }
    }
    assert read_error(400, {}, json.dumps(body).encode()).said == ("too many: wait",)


# Accounts, keys, addresses


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"error": {"message": "pay first"}}),
        (429, {"error": {"message": "Your account org-9 is suspended", "type": "exceeded_current_quota_error"}}),
        (429, {"code": "exhausted", "error": "Your team has used all of its credits for this month"}),
        (429, {"error": {"message": "You exceeded your current quota, please check your plan and billing details."}}),
        (429, {"error": {"message": "no", "type": "insufficient_quota", "code": "project_spend_limit_exceeded"}}),
        (429, {"error": {"code": "1113", "message": "余额不足"}}),
        (403, {"error": {"message": "Insufficient balance, recharge your account"}}),
        (403, {"code": "Arrearage", "message": "Access denied, settle your account"}),
        (403, {"error": {"message": "The free tier of this model has been exhausted"}}),
        (403, {"error": {"message": "Key limit exceeded (monthly limit)"}}),
        (412, {"error": {"message": "Account x is suspended, possibly because it reached its monthly spending limit"}}),
        (400, {"error": {"message": "You have reached your specified API usage limits."}}),
        (400, {"error": {"message": "Budget has been exceeded! Current cost: 5", "type": "budget_exceeded"}}),
        (
            429,
            [{"error": {"message": "Quota exceeded: 50 requests per day", "details": [{"retryDelay": "20s"}]}}],
        ),
        (429, {"errors": [{"message": "your daily free allocation of 9 units is used up", "code": 7}]}),
        (429, {"message": "your key is limited to 900 calls / month"}),
        (403, {"code": "no", "error": "Your team does not have any credits yet"}),
        (400, {"type": "error", "error": {"type": "bad", "message": "This organization has been disabled."}}),
        (401, {"message": "Your account was deactivated"}),
        (429, {"message": "Too many tokens per day, come back tomorrow"}),
    ],
)  # fmt: skip
def test_an_account_that_is_out_of_credit_ends_the_run(status: int, body: Any) -> None:
    assert meant(status, body) == "credit"


@pytest.mark.parametrize(
    "body",
    [
        "Rate limit reached for requests",
        "Too many requests, slow down",
        "You exceeded your current quota: 10 requests per minute. Please retry in 22.5s.",
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, please check your plan and billing details.",
                    "details": [{"@type": "RetryInfo", "retryDelay": "22s"}],
                }
            }
        ],
        "Resource has been exhausted (e.g. check quota).",
        "Trial keys get 40 calls / minute",
        {"message": "Throttled: too many tokens, please wait before trying again."},
        {"message": "Requests per minute exceeded", "code": "request_quota_exceeded", "param": "quota"},
        {"message": "Quota exceeded for generate_requests_per_minute_per_project"},
        {"code": "Throttling.AllocationQuota", "message": "Allocated quota exceeded, ask for more"},
        {"error": "You reached the hourly usage limit"},
        {"message": "Your key is limited to 40 calls / minute, upgrade it for more"},
        {"error": "The usage limit is 3 QPS"},
    ],
)
def test_a_limit_per_minute_is_waited_out(body: Any) -> None:
    assert meant(429, body) == "busy"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, [{"error": {"message": "API key not valid. Pass a valid API key.", "status": "INVALID_ARGUMENT"}}]),
        (401, {"detail": "Not authenticated"}),
        (403, [{"error": {"message": "The API is disabled in project 7", "status": "PERMISSION_DENIED"}}]),
        (400, "Incorrect API key provided"),
        (422, {"error": "Missing API key"}),
        (500, {"error": {"message": "no", "type": "authentication_error"}}),
        (400, {"error": {"message": "Error: Unauthorized"}}),
        (498, {"message": "Invalid token"}),
        (403, {"Message": "You are not authorized to perform: invoke"}),
        (403, {"message": "The access token is out of date"}),
        (403, {"status": 403, "title": "Forbidden", "detail": "Authorization failed"}),
        (400, {"error": {"message": "Missing or invalid Authorization header."}}),
        (400, {"errors": [{"message": "bad headers", "error_chain": [{"message": "Invalid Authorization header"}]}]}),
        (400, {"error": {"message": "Authentication Error, unknown token", "param": "key"}}),
        (401, "no such key"),
    ],
)
def test_a_wrong_key_is_known_with_any_status(status: int, body: Any) -> None:
    assert meant(status, body) == "key"


@pytest.mark.parametrize(
    ("body", "meaning"),
    [
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "path"),
        ({"error": {"message": "Unknown request URL: POST /chat/completions"}}, "path"),
        ({"error": "no route for POST /chat/completions"}, "path"),
        ({"error": "404 page not found"}, "path"),
        ({"object": "error", "message": "Cannot POST /chat/completions"}, "path"),
        ({"error": {"message": "invalid api key", "type": "authentication_error"}}, "key"),
        ({"error": {"message": "bad", "code": 401}}, "key"),
        ({"error": {"message": "bad", "code": "invalid_api_key"}}, "key"),
        ({"error": {"message": "wait", "code": "429"}}, "busy"),
        ({"error": {"message": "wait", "code": "rate_limit_exceeded"}}, "busy"),
        ({"error": {"message": "Overloaded", "type": "overloaded_error"}}, "busy"),
        ({"error": {"message": "the prompt is too long", "code": 400}}, "too_long"),
        ({"error": {"message": "no", "code": "content_filter"}}, "filtered"),
        ({"error": {"message": "no", "code": "insufficient_quota"}}, "credit"),
        ({"error": {"message": "Unknown parameter: seed", "type": "invalid_request_error"}}, "setting"),
        ({"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}, "model"),
        ({"error": "CUDA out of memory"}, "fault"),
        ({"error": {"message": "bad gateway", "code": 502}}, "fault"),
    ],
)
def test_an_error_inside_an_answer_means_what_it_says(body: dict[str, Any], meaning: str) -> None:
    assert meaning_of(error_inside(body), PAYLOAD) == meaning


@pytest.mark.parametrize(
    ("status", "words", "meaning"),
    [
        (404, "404 page not found", "path"),
        (404, "Not Found", "path"),
        (405, "Method Not Allowed", "path"),
        (404, "Cannot POST /chat/completions", "path"),
        (404, "model 'm' not found, try pulling it first", "model"),
        (404, "The model `m` does not exist or you do not have access to it", "model"),
        (400, "The model m does not exist", "model"),
        (400, "No models are loaded", "model"),
        (400, "No such model m here", "model"),
        (400, "The provided model identifier is invalid.", "model"),
        (400, '"embedder" does not support chat', "model"),
        (404, "The model doubao-seed-1.6 does not exist", "model"),
        (404, "The page could not be found", "path"),
        (501, "Method not allowed", "path"),
    ],
)
def test_a_path_that_is_not_there_is_told_from_a_model_that_is_not(status: int, words: str, meaning: str) -> None:
    assert meant(status, words) == meaning


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@pytest.mark.parametrize(
    "error",
    [
        {"code": "model_not_found"}, {"code": "model_not_supported"}, {"code": "model_decommissioned"},
        {"code": "unknown_model"}, {"type": "invalid_model"}, {"code": "key_model_access_denied"}, {"param": "model"},
    ],
)  # fmt: skip
def test_a_code_or_a_field_says_that_the_model_is_wrong_with_any_status(error: dict[str, str], status: int) -> None:
    assert meant(status, {"error": {"message": "This cannot be done for m", **error}}) == "model"


@pytest.mark.parametrize(
    "body",
    [
        {
            "code": "The caller does not have permission to execute the operation",
            "error": "Content violates usage guidelines. Failed check: X",
        },
        {"error": {"message": "Your prompt was flagged", "code": "invalid_prompt"}},
        {"error": {"message": "The prompt may contain inappropriate content", "code": "DataInspectionFailed"}},
        {"error": {"message": "The request was rejected by our safety system"}},
        {"error": {"message": "Request blocked: the guardrail found violence"}},
        {"detail": "The text violates the rules on weapons"},
        {"error": {"code": "1301", "message": "输入可能包含敏感内容"}},
        {"error": {"message": "This model requires moderation, which flagged your input. No credits were charged."}},
        {"error": {"message": "The content you sent is blocked.", "type": "censorship_blocked"}},
        {"error": {"message": "The guardrail checks of this route failed", "type": "hooks_failed"}},
        {"error": [{"code": 2016, "message": "Prompt blocked due to the settings"}]},
        {"message": "refused: prompt pattern is blocked"},
        {"error": {"message": "Blocked by the input rail"}},
        {"detail": "Toxic language was found"},
        {"error": {"message": "no", "code": "TextIllegalDetected"}},
    ],
)
@pytest.mark.parametrize("status", [400, 403, 422, 424, 446, 451])
def test_a_blocked_prompt_is_told_from_a_wrong_key(status: int, body: Any) -> None:
    assert meant(status, body) == "filtered"


@pytest.mark.parametrize("status", [400, 403, 446, 500, 502, 503])
def test_a_code_says_that_a_prompt_is_blocked_with_any_status(status: int) -> None:
    for code in ("content_filter", "content_policy_violation", "blocked_prompt", "moderation_blocked"):
        assert meant(status, {"error": {"message": "no", "code": code}}) == "filtered"


def test_what_the_law_forbids_is_blocked_without_words() -> None:
    for body in ("", "Unavailable", {"error": {"message": "no"}}):
        assert meant(451, body) == "filtered"


# A model that is not there yet


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
        {"error": "Model org/tiny is currently loading", "estimated_time": 20.0},
        {"message": "The engine is still starting"},
        {"detail": "model not loaded yet"},
        {"error": "the service is warming up"},
        {"error": {"message": "Cold start in progress"}},
        {"error": "worker is initializing"},
        {"error": "the model is not ready"},
        {"error": "no healthy upstream"},
        {"message": "no available server"},
        {"detail": "Model weights are being downloaded: 34 %"},
        {"error": {"message": "The deployment is scaling up"}},
        {"message": "upstream is starting"},
    ],
)
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529])
def test_a_model_that_loads_is_waited_for(status: int, body: Any) -> None:
    assert meant(status, body) == "loading"


@pytest.mark.parametrize(
    ("status", "words", "meaning"),
    [
        (500, "failed to load model: out of memory", "fault"),
        (500, "timed out waiting for the runner to start", "fault"),
        (500, "An error occurred, please try again later", "fault"),
        (503, "", "fault"),
        (503, "Please try again later", "busy"),
        (500, "Overloaded", "busy"),
        (503, "the queue is full", "busy"),
        (529, "", "busy"),
        (502, "upstream closed the connection", "fault"),
        (500, {"status": 500, "error": "Internal Server Error", "path": "/model/m/invoke"}, "fault"),
        (503, {"error": {"message": "wait", "code": "ModelNotReadyException", "param": "model"}}, "fault"),
        (503, {"error": {"message": "no channel for m", "code": "model_not_found"}}, "model"),
        (424, "Generation failed: CUDA out of memory", "fault"),
        (499, "request cancelled", "fault"),
        (520, "error code: 520", "fault"),
        (530, "error code: 1033", "fault"),
        (400, "Too many requests, wait", "busy"),
        (498, {"message": "no room for this", "code": "capacity_exceeded"}, "busy"),
        (400, {"__type": "x#ThrottlingException", "message": "wait"}, "busy"),
    ],
)
def test_other_failures_of_a_server(status: int, words: Any, meaning: str) -> None:
    assert meant(status, words) == meaning


# When to come back


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"message": "slow down", "details": [{"@type": "x"}, {"retryDelay": "37s"}]}}, 37.0),
        ({"error": {"message": "slow down", "retry_after": 4}}, 4.0),
        ({"error": "slow down", "retry_after_ms": 1500}, 1.5),
        ({"error": "loading", "estimated_time": 20.5}, 20.5),
        ({"retryAfter": "2.5", "message": "wait"}, 2.5),
        ({"error": {"message": "x", "metadata": {"headers": {"Retry-After": "9"}}}}, 9.0),
        ({"error": "Please try again in 1.2s."}, 1.2),
        ({"error": "Please try again in 340ms."}, 0.34),
        ({"error": "Please try again in 6m0s."}, 360.0),
        ({"error": "try again in 1h2m3s"}, 3723.0),
        ({"error": "Please retry after 3 seconds."}, 3.0),
        ({"error": "Please retry your requests after 12 seconds"}, 12.0),
        ({"error": "Please wait 5 minutes and 30 seconds"}, 330.0),
        ({"error": "the limit resets in 20 sec"}, 20.0),
        ({"error": "You made 60 requests in 1 minute: too many"}, None),
        ({"error": "try again later"}, None),
        ({"error": "retry"}, None),
        ({"error": {"message": "x", "retry_after": None}}, None),
        ({"error": {"message": "x", "retry_after": -1}}, None),
        ({"error": {"message": "x", "retry_after": True}}, None),
    ],
)
def test_a_body_says_when_to_come_back(body: Any, seconds: float | None) -> None:
    wait = read_error(429, {}, json.dumps(body).encode()).retry_after
    assert wait == (None if seconds is None else pytest.approx(seconds))


def test_a_header_counts_before_the_body() -> None:
    assert read_error(429, {"Retry-After": "3s"}, b'{"error": "try again in 9s"}').retry_after == 3.0
