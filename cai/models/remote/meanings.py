"""What the words of a refusal or failure mean: the same fault has other words, and another status, at every server."""

from __future__ import annotations

import re
from typing import Literal

from cai.models.remote.failures import Failure, pattern_of
from cai.models.remote.fields import refused_fields
from cai.records import Object

Meaning = Literal[
    "proxy", "credit", "filtered", "too_long", "firewall", "key", "path", "model", "loading", "busy", "fault",
    "setting", "refused",
]  # fmt: skip


FILTERED = pattern_of(
    r"content.?filter",
    r"content.?(policy|management|moderation)",
    r"usage.(policy|policies|guidelines)",
    r"invalid_prompt",
    r"data.?inspection.?failed",
    r"content exists risk",
    r"high risk",
    r"requires moderation",
    r"(was|been) flagged",
    r"(content|prompt|input|output|text)\b.{0,60}\b(violat|inappropriate|sensitive|prohibited|unsafe)",
    r"(violat|block|reject|refus)\w*.{0,60}\b(safety|moderation|guardrail|(content|acceptable use) polic)",
    r"(safety|moderation|guardrail)\w*.{0,40}\b(block|reject|interven|violat|flag)",
    r"safety.?(check|system|settings)",
    r"prohibited.?content",
    r"sensitive.?(content|words)|new_sensitive",
    r"responsible ai",
    "敏感|不安全|违规",
)
# Words that end the run. A message may quote a prompt, so they count in the code or type, or at a message's opening;
# anywhere in it with the statuses of EARLY, which are decided before a prompt is read.
OPENING = r"(\{'error': ['\"])?(\S{0,60}(error|exception)\b[:\s-]*){0,3}(/\S+: )?"  # of LiteLLM before others' words
EARLY = (401, 402, 403, 404, 412, 429)
NO_CREDIT = pattern_of(
    r"insufficient.?(quota|balance|credit|fund)",
    r"billing_?(error|hard_limit|not_active|failed)",
    r"spend(ing)?.?limit",
    r"(your )?credit.?balance.?(is.too.low|exhausted)",
    r"exceeded_current_quota",
    r"budget.?(has been )?exceeded|exceeded.?budget",
    r"(organization|project)_usage_limit",
    r"you have reached your specified api usage limits",
    r"arrear",
    "欠费|余额不足",
)
NO_CREDIT_EARLY = pattern_of(
    NO_CREDIT.pattern,
    r"\bcredits?\b.{0,40}\b(exhausted|depleted|limit|insufficient)",
    r"\b(used|out of|not enough|no|exceeded|purchase|more|add)\b.{0,30}\bcredits?\b",
    r"(account|organi[sz]ation|project|subscription)\b.{0,40}\b(suspended|overdue|past due|on hold|(not |in)active)",
    r"payment.{0,20}(required|failed|method)",
    r"balance\b.{0,30}\b(low|insufficient|negative|not enough)",
    r"call volume quota",
    r"free tier\b.{0,60}\bexhausted",
)
# Servers write these of a limit per minute, too; then they say when to come back.
NO_QUOTA = pattern_of(
    r"exceeded your current quota",
    r"check your plan and billing",
    r"quota.{0,30}(exhausted|exceeded)",
    r"(per|/) month",
    r"(monthly|key|usage|daily)\b.{0,20}\b(limit|quota)",
    r"top.?up|recharge",
)
PER_DAY = pattern_of(r"per.?day", r"daily", r"\b[rt]pd\b")
NO_KEY = pattern_of(
    r"(the |your )?(provided )?(api|access|secret)[ _-]?key\b.{0,20}\b"
    r"(not valid|invalid|missing|expired|incorrect|required|not found|revoked)",
    r"(invalid|incorrect|missing|wrong|expired|unknown|no)( \w+)? (x-)?(api|access|auth\w*|bearer)[ _-]?"
    r"(key|token|header|credential)",
    r"authentication_?error",
    r"invalid_?api_?key",
    r"unauthori[sz]ed",
    r"unauthenticated",
    r"not authenticated",
    r"(no|missing|invalid) (auth|credential)",
)
NO_MODEL = pattern_of(
    r"model_not_found",
    r"invalid_?model\b",
    r"invalid model\b",
    r"model not exist",
    r"unknown model",
    r"(the )?(model )?\S+ is not a valid model",
    r"(the )?model\b.{0,80}\b(does not exist|not found)",
)
NO_PATH = pattern_of(
    r"(unexpected|unknown|unsupported|invalid|no such|unrecogni[sz]ed) (request )?(endpoint|path|url|uri|route)",
    r"cannot (post|get)\b",
    r"no (route|handler)\b",
    r"(404 )?(endpoint|path|url|route|page|resource|file)\b.{0,20}\bnot found",
    r"method not allowed",
)
NOTHING_THERE = re.compile(r"(404\W*)?(not found|method not allowed|an HTML page)\W*", re.IGNORECASE)
SERVING = r"(model|weights|engine|server|service|worker|replica|endpoint|instance|container|runner)\w*"
LOADING = pattern_of(
    rf"{SERVING}\b.{{0,60}}\b(loading|warming|starting|booting|initiali[sz]ing|provisioning|spinning up|scaling up)",
    rf"(loading|warming up|starting|initiali[sz]ing|booting|spinning up|pulling)\b.{{0,40}}\b{SERVING}\b",
    rf"{SERVING}\b.{{0,60}}\bnot (yet |been )*(ready|loaded|started|initiali[sz]ed)",
    rf"\bno (healthy|available|ready|live) (upstream|backend|{SERVING})",
    r"cold.?(start|boot)",
    r"\bis loading\b",
    r"(still|currently) (loading|starting)",
)
NOT_LOADING = pattern_of(r"(fail\w*|error|unable|cannot|could not|timed out)\b.{0,30}\b(load|start|initiali)")
OVERLOADED = pattern_of(
    r"overload",
    r"too many requests",
    r"rate.?limit",
    r"(at|over|no|insufficient) capacity",
    r"slow down",
    r"\b(server|service|engine|model) (is )?(too )?busy",
    r"throttl",
    r"concurren\w+ limit",
    r"high (demand|load|traffic)",
    r"(queue|slots?)\b.{0,20}\b(full|busy)",
)
TRY_LATER = pattern_of(r"try again", r"temporarily", r"retry")  # with 503; a 500 says so of a prompt, too

# Longer than a model reads: what is read, its measure, and a limit that it is over.
CODES_TOO_LONG = pattern_of(
    r"context.?length.?exceeded",
    r"exceed.?context.?size",
    r"request.?(body.?|entity.?)?too.?large",
    r"payload.?too.?large",
    r"string.above.max.length",
    r"tokens.limit.reached",
    r"max.prompt.tokens.exceeded",
    r"too many (input )?tokens",
    r"\b(request|text|message|query|content)( is| was)? too long",
    r"token limit (was )?exceeded",
    "超长|(输入|上下文|提示).{0,20}(超过|超出|过长)",
)
IS_READ = re.compile(
    r"\b(contexts?|prompts?|inputs?|messages|conversation|sequence|history|n ctx|max (seq|model) len"
    r"|model token limit)\b"
)
MEASURE = re.compile(r"\b(tokens?|len|length|size|window|characters|long|large|overflows?|limit|ctx)\b")
OVER = re.compile(
    r"exceed|too (long|large|big|many)|\b(longer|larger|greater|bigger|more) than\b|\bover(flow|s\b| the\b)|beyond"
    r"|surpass|reduce|shorten|(does ?n.?t|does not|cannot|can.?t|won.?t) fit|\bmax(imum)?\b|\blimit(ed)?\b"
    r"|only supports|\d > \d|range of|must be (<|at most|less|fewer)|(less|fewer) than (or equal to )?\d+|at most \d+"
)
TOKENS_OVER = re.compile(
    r"\btokens?\b.{0,40}\b(exceed|over the|above|(larger|more) than)|exceed\w*\b.{0,40}\btokens?\b"
)
WRITTEN = pattern_of(  # a limit of what is written is a setting
    r"\b(max|min)_(new_|completion_|output_)?tokens(_to_sample)?\b",
    r"\bmax(Output|New|Completion)?Tokens\b",
    r"\b(max(imum)? |number of )*(new|completion|output|generated) (tokens|length)\b",
)
IN_SOME_TIME = pattern_of(
    r"(per.?|this )(minute|min|hour|day|second|month)\b",
    r"timed? ?out|deadline|took too long|retries",
    r"rate.?limit",
    r"\b[rt]p[mds]\b",
    r"quota",
    r"too many requests",
    r"please wait",
    r"(try|request) again (in \d|later|after)",
    r"retry after",
    r"throttl",
    r"billing",
    r"credits?\b",
    r"\b(daily|monthly)\b",
)

BAD_SETTING = pattern_of(
    r"unsupported_(parameter|value)",
    r"\S+ is deprecated for this model",
    r"\S+ and \S+ cannot both be specified",
    r"(this model does not support )?assistant message prefill",
)


def meaning_of(answer: Failure, payload: Object) -> Meaning:
    """What an error that answers a payload means for its call, its row and the run."""
    status, words = answer.status, answer.words
    if status == 407:
        return "proxy"
    if _is_out_of_credit(answer):
        return "credit"
    if (status in (400, 403, 413, 422, 451) or answer.inside) and FILTERED.search(words):
        return "filtered"
    if status == 413 or (status not in (401, 402, 403, 404) and is_too_long(words)):
        return "too_long"
    if status == 403 and not answer.spoken:
        return "firewall"
    if status in (401, 403) or _opens(answer, NO_KEY):
        return "key"
    if _opens(answer, NO_PATH) or (status in (404, 405) and NOTHING_THERE.fullmatch(answer.message)):
        return "path"
    if status == 404 and refused_fields(answer, payload):
        return "setting"
    if status in (404, 405) or (status in (400, 422) and _opens(answer, NO_MODEL)):
        return "model"
    passing = _passing(answer)
    if passing is not None:
        return passing
    is_setting = refused_fields(answer, payload) or _opens(answer, BAD_SETTING)
    return "setting" if is_setting else "refused"


def _passing(answer: Failure) -> Meaning | None:
    status, words = answer.status, answer.words
    if status >= 500 and LOADING.search(words) and not NOT_LOADING.search(answer.message):
        return "loading"
    if status in (429, 529) or (status >= 500 and OVERLOADED.search(words)):
        return "busy"
    if status == 503 and (answer.retry_after is not None or TRY_LATER.search(words)):
        return "busy"
    return "fault" if status >= 500 or status in (408, 409, 425) else None


def _opens(answer: Failure, pattern: re.Pattern[str]) -> bool:
    """Whether the code or type holds the pattern, or the message begins with it."""
    opening = re.compile(f"{OPENING}(?:{pattern.pattern})", re.IGNORECASE)
    return pattern.search(answer.kind) is not None or opening.match(answer.message) is not None


def _is_out_of_credit(answer: Failure) -> bool:
    status, words = answer.status, answer.words
    if status == 402 or _opens(answer, NO_CREDIT):
        return True
    if status not in EARLY:
        return False
    if NO_CREDIT_EARLY.search(words):
        return True
    passes = answer.retry_after is not None and not PER_DAY.search(words)
    return status in (403, 429) and not passes and NO_QUOTA.search(words) is not None


def is_too_long(words: str) -> bool:
    """Whether an error says that a conversation is longer than its model reads, at whatever server.

    Not if it speaks of a limit of what is written, such as max_tokens, or of tokens in some time.
    """
    text = WRITTEN.sub("written", re.sub(r"messages\[\d+\]\S*", "", words))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()  # codes such as InputTooLong
    text = " ".join(re.sub(r"[_`'\"()\[\]-]", " ", text).split())
    if "request too large" in text:  # also of one request over the tokens of a minute, which will never fit
        return True
    if IN_SOME_TIME.search(text) or "logprobs" in text:
        return False
    if CODES_TOO_LONG.search(text) or all(pattern.search(text) for pattern in (IS_READ, MEASURE, OVER)):
        return True
    return "written" not in text and TOKENS_OVER.search(text) is not None
