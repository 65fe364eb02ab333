"""What a refusal or failure means: every server words the same fault in its own way, with a status of its own."""

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
    r"(invalid|blocked)_prompt",
    r"data.?inspection.?failed",
    r"content exists risk",
    r"high risk",
    r"requires moderation",
    r"(was|been) flagged",
    r"(content|prompt|input|output|text)\b.{0,60}\b(violat|inappropriate|sensitive|prohibited|unsafe|illegal|toxic)",
    r"(content|prompt|input|output|text|response)\b.{0,40}\b(is|was|been) blocked|(content|prompt)s? blocked",
    r"toxic.(content|language)|illegal.?(content|detected)|censor",
    r"(violat|block|reject|refus)\w*.{0,60}\b(safety|moderation|guardrail|(content|acceptable use) polic)",
    r"(safety|moderation|guardrails?)\w*.{0,40}(\b|_)(block|reject|interven|violat|flag|fail|trigger)",
    r"(input|output) rail|hooks_failed",
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
    r"(this |your )?(account|organi[sz]ation|project|workspace)\b.{0,40}\b(disabled|deactivated|suspended|terminated)",
    "欠费|余额不足",
)
NO_CREDIT_EARLY = pattern_of(
    NO_CREDIT.pattern,
    r"\bcredits?\b.{0,40}\b(exhausted|depleted|limit|insufficient)",
    r"\b(used|out of|not enough|no|any|exceeded|purchase|more|add)\b.{0,30}\bcredits?\b",
    r"(account|organi[sz]ation|project|subscription)\b.{0,40}\b(overdue|past due|on hold|(not |in)active)",
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
    r"(monthly|key|usage|daily)\b.{0,20}\b(limit|quota|allocation|allowance)\b",
    r"top.?up|recharge",
    r"too many\b.{0,20} per day",
)
PER_MINUTE = pattern_of(
    r"(per.?|/ ?)(second|sec|minute|min|hour)(?![a-z])", r"hourly", r"\b(qps|[rt]p[ms])\b", r"throttl"
)
PER_DAY = pattern_of(r"per.?day", r"daily", r"\b[rt]pd\b")
NO_KEY = pattern_of(
    r"(the |your )?(provided )?(api|access|secret)[ _-]?key\b.{0,20}\b"
    r"(not valid|invalid|missing|expired|incorrect|required|not found|revoked)",
    r"(invalid|incorrect|missing|wrong|expired|unknown|no)( or \w+)?( \w+){0,2} (x-)?(api|access|auth\w*|bearer)[ _-]?"
    r"(key|token|header|credential)",
    r"authentication[_ ]?error",
    r"invalid_?api_?key",
    r"unauthori[sz]ed",
    r"unauthenticated",
    r"not authenticated",
    r"(no|missing|invalid) (auth|credential)",
)
SECURITY = pattern_of(
    r"authori[sz]|authenti|token|credential|api.?key|permission|access to"
)  # the API's words with 403
MODEL_CODE = pattern_of(  # with any status
    r"\bmodel_?((is_)?not_?(found|supported|exist\w*|open|allowed|permitted|enabled)|decommissioned|deprecated|terms_required)|\w*(un|in)(known|valid)_?model\b",
    r"model_access_denied|ModelNotOpen|endpoint_?not_?found",
)
NO_MODEL = pattern_of(
    r"no models?\b.{0,20}\bloaded",
    r"(invalid|unknown|no such) model\b",
    r"model not exist",
    r"(the )?(model )?\S+ is not a valid model",
    r"(the )?((provided|requested|specified) )?model\b.{0,80}\b"
    r"(not exist|not found|not supported by|is invalid|decommissioned|is not a chat model|requires terms)",
    r"\S+ does not support chat\b",
    r"(you don.t have access|invocation of|the \w+ operation does not work with)\b.{0,20}\bmodel",
    "模型不存在",
)
NO_PATH = pattern_of(
    r"(unexpected|unknown|unsupported|invalid|no such|unrecogni[sz]ed) (request )?(endpoint|path|url|uri|route)",
    r"cannot (post|get)\b|could not route",
    r"no (route|handler)\b",
    r"(404 )?(the )?(endpoint|path|url|route|page|resource|file)\b.{0,20}\bnot (be )?found|not found\W+requested path",
    r"method not allowed",
)
NOTHING_THERE = re.compile(r"(404\W*)?(not found|method not allowed|an HTML page)\W*", re.IGNORECASE)
SERVING = (
    r"(model|weights|engine|server|service|worker|replica|endpoint|instance|container|runner|upstream|deployment|pod)"
    r"\w*"
)
LOADING = pattern_of(
    rf"{SERVING}\b.{{0,60}}\b(loading|warming|starting|booting|initiali[sz]ing|provisioning|spinning up|scaling up)",
    rf"{SERVING}\b.{{0,60}}\bbeing (loaded|deployed|downloaded|pulled|prepared)",
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
    r"(at|over|no|insufficient) capacity|capacity.(temporarily.)?exceeded",
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
    r"request.?(body.?|entity.?)?too.?large|request payload size exceeds|too many total text bytes",
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
    r"\b((max|min)_(new_|completion_|output_)?tokens(_to_sample)?|budget_tokens)\b",
    r"\bmax(Output|New|Completion)?Tokens\b",
    r"\b(max(imum)? |number of )*(new|completion|output|generated) (tokens|length)\b",
    r"\bmaximum tokens (you requested|value)",
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
    r"parameter\S* (\S+ )?must be|this model only supports? stream",
    r"unsupported_(parameter|value)",
    r"\S+ is deprecated for this model",
    r"\S+ and \S+ cannot both be specified",
    r"(this model does not support )?assistant message prefill",
)


def meaning_of(answer: Failure, payload: Object) -> Meaning:
    """What an error that answers a payload means for its call, its row and the run."""
    status = answer.status
    if status == 407:
        return "proxy"
    if status == 402 or _opens(answer, NO_CREDIT):
        return "credit"
    if _is_filtered(answer):
        return "filtered"
    if _is_out_of_credit(answer):
        return "credit"
    if status == 413 or (
        status not in (401, 402, 403, 404) and is_too_long(answer.words) and not _limits_the_reply(answer)
    ):
        return "too_long"
    if 400 <= status < 500 and status != 429 and _opens(answer, OVERLOADED):
        return "busy"
    if status in (400, 403, 404, 422, 501) and refused_fields(answer, payload):
        return "setting"
    if status != 429 and (MODEL_CODE.search(answer.kind) or ("model" in answer.fields and status < 500)):
        return "model"
    if status == 403 and not answer.kind and not SECURITY.search(answer.words):
        return "firewall"
    if status in (401, 403, 498) or _opens(answer, NO_KEY):
        return "key"
    if _opens(answer, NO_PATH) or (status in (404, 405, 501) and all(map(NOTHING_THERE.fullmatch, answer.said))):
        return "path"
    if status in (404, 405) or (status in (400, 422) and _opens(answer, NO_MODEL)):
        return "model"
    return _passing(answer) or ("setting" if _opens(answer, BAD_SETTING) else "refused")


def _passing(answer: Failure) -> Meaning | None:
    status, words = answer.status, answer.words
    if (status >= 500 or status == 429) and LOADING.search(words) and not NOT_LOADING.search(answer.message):
        return "loading"
    if status in (429, 529) or (status >= 500 and OVERLOADED.search(words)):
        return "busy"
    if status == 503 and (answer.retry_after is not None or TRY_LATER.search(words)):
        return "busy"
    return "fault" if status in (408, 409, 424, 425, 499) or (status >= 500 and status != 501) else None


def _is_filtered(answer: Failure) -> bool:
    """Whether a filter blocked the prompt: so says a code with any status, a message with one that judges prompts."""
    status = answer.status
    if status == 451 or (status not in (401, 404, 429) and FILTERED.search(answer.kind)):
        return True
    judges = answer.inside or status == 403 or (400 <= status < 500 and status not in EARLY)
    return judges and FILTERED.search(answer.words) is not None


def _limits_the_reply(answer: Failure) -> bool:
    """Whether an error points to the field that limits the reply, and says nothing of what is to be read."""
    return "max_tokens" in answer.fields and not re.search("input|prompt|messages|request", answer.message)


def _opens(answer: Failure, pattern: re.Pattern[str]) -> bool:
    """Whether the code or type holds the pattern, or a message begins with it."""
    opening = re.compile(f"{OPENING}(?:{pattern.pattern})", re.IGNORECASE)
    return pattern.search(answer.kind) is not None or any(map(opening.match, answer.said))


def _is_out_of_credit(answer: Failure) -> bool:
    status, words = answer.status, answer.words
    if status not in EARLY:
        return False
    if NO_CREDIT_EARLY.search(words):
        return True
    passes = (answer.retry_after is not None or PER_MINUTE.search(words)) and not PER_DAY.search(words)
    return status in (403, 429) and not passes and NO_QUOTA.search(words) is not None


def is_too_long(words: str) -> bool:
    """Whether an error says that a conversation is longer than its model reads, at whatever server.

    Not if it speaks of a limit of what is written, such as max_tokens, or of tokens in some time.
    """
    text = WRITTEN.sub("written", re.sub(r"messages\[\d+\]\S*|https?://\S+", "", words))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()  # codes such as InputTooLong
    text = " ".join(re.sub(r"[_`'\"()\[\]-]", " ", text).split())
    if "request too large" in text:  # also of one request over the tokens of a minute, which will never fit
        return True
    if IN_SOME_TIME.search(text) or "logprobs" in text:
        return False
    if CODES_TOO_LONG.search(text) or all(pattern.search(text) for pattern in (IS_READ, MEASURE, OVER)):
        return True
    return "written" not in text and TOKENS_OVER.search(text) is not None
