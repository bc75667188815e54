"""Takes credentials out of text, before it reaches a log, a file or a status.

Three kinds are known by their looks: tokens that say what they are (hf_…, ghp_…, AKIA…), values that stand behind a
word for a secret (`password=…`, `"token": "…"`, `--token …`, `Bearer …`), and credentials in URLs. What is set in the
environment is known by its value besides (`redactor`), and the lines of a private key by the line that begins it
(`KeyBlocks`). The operator and the trainer both import this: no libraries.

A finding is replaced as a whole, so the rest of a token never stays; redacting twice changes nothing. Words such as
`token` and `key` mostly mean something else in the log of a training, so behind them only what looks like a credential
is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MASK = "***"
MIN_SECRET_LENGTH = 8
"""Of a value in the environment: a shorter one would take ordinary words with it."""
MAX_KEY_LINES = 100
"""Of a private key in a stream: one of 4096 bits has 52, and a header without a key must not hide a log for good."""
SECRET_VARIABLE = re.compile(
    "TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|KEY|(?<![A-Z])PASS(?![A-Z])|_PWD$", re.IGNORECASE
)

Redact = Callable[[str], str]

_NO_NAME = r"(?:(?=[\w-]{0,100}\d)(?=[\w-]{0,100}[A-Z])[A-Za-z0-9][\w-]{18,}|[A-Za-z0-9]{24,}[\w-]*)"
"""As opposed to the names of models and runs, which are lower-case words and numbers with hyphens."""
_TOKENS = (
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}",  # Hugging Face: of a person, of an organisation
    r"gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{20,}",  # GitHub
    r"glpat-[\w-]{16,}",  # GitLab
    r"(?:AKIA|ASIA)[A-Z0-9]{12,}",  # AWS
    r"AIza[\w-]{30,}|ya29\.[\w-]{16,}",  # Google
    r"xox[abeoprs]-[\w-]{10,}",  # Slack
    r"npm_[A-Za-z0-9]{20,}|pypi-AgE[\w-]{12,}|dckr_pat_[\w-]{16,}",  # registries
    r"eyJ[\w-]{6,600}\.eyJ[\w-]{6,}\.[\w-]*",  # JSON Web Tokens, as service accounts have
)
_TOKENS_AT_THE_BEGINNING_OF_A_WORD = (
    rf"(?<![A-Za-z0-9-])(?:sk|nvapi)-{_NO_NAME}",  # OpenAI and others, NVIDIA
    r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
)
"""After the others, as URLs: behind a mask a word begins."""
_SECRET = r"passwords?|passwd|passphrase|secrets?|credentials?"
_PASS = r"(?<![A-Za-z])(?:pwd|pass)"
_KEY = (
    r"(?:api|access|account|auth|encryption|license|master|private|secret|shared|signing|ssh)[-_]?key(?:[-_]?id)?"
    r"|(?-i:_KEY)|(?<=[a-z])(?-i:Key)"
)
_BARE_KEY = r"(?<![A-Za-z])key"
"""Of a dictionary, a taint, a state dict, far more often than of a lock."""
_TOKEN = "".join(f"(?<!{kind}[_-])" for kind in ("pad", "eos", "bos", "unk", "sep", "cls", "mask", "image")) + "token"
"""`pad_token=…` is no secret: tokenizers speak so."""
_QUOTE = r"\\{0,7}[\"']"
"""JSON within JSON has its quotes behind backslashes."""
_QUOTED = (
    r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?"
    r"|(?P<escaped>\\{1,7}[\"'])(?:(?!(?<!\\)(?P=escaped))[\s\S])*(?:(?P=escaped))?"
)
_VALUE = rf"(?:{_QUOTED}|\S+)"
_RANDOM = r"(?=[\w~+/=.-]*\d)(?=[\w~+/=.-]*[A-Za-z])[\w~+/=.-]{16,}"
"""What a generated value looks like, as opposed to a word of a sentence."""
_RANDOM_KEY = (
    r"(?=[\w~+=-]{0,200}\d)(?=[\w~+=-]{0,200}[A-Za-z])"
    r"(?:(?-i:(?=[\w~+=-]{0,200}[a-z])(?=[\w~+=-]{0,200}[A-Z]))[\w~+=-]{16,}+|[A-Za-z0-9]{16,}+[\w~+=-]*+)(?![./]\w)"
)
"""Without dots and slashes, and no `snake_case_name_2`."""
_RANDOM_BEARER = r"(?:(?=[\w~+/=.-]{0,200}(?:\d|(?-i:[a-z][A-Z])))[\w~+/=.-]{8,}|[A-Za-z]{16,}[\w~+/=.-]*)"
_NO_VALUE = r"(?!(?:\d{1,9}(?:\.\d{1,9})?|none|null|true|false)(?:[\s,;)\]}]|\.?\Z|\.\s))"
"""`token=5` counts."""
_NO_SENTENCE = (
    r"(?!(?-i:a|an|and|are|argument|as|at|be|but|can|cannot|could|does|expected|field|flag|for|from|has|have|if|in"
    r"|incorrect|invalid|is|it|may|missing|must|needs|no|not|of|on|option|or|required|should|that|the|this|to|too"
    r"|value|was|were|which|will|with|wrong|you|your)(?:[\s,;]|[.:!]?(?:\s|\Z)))"
)
"""`password: must be set` tells none. A list, because any other word in lower case may well be somebody's password."""
_SCHEMES = "basic|bearer|digest|negotiate|token"

_KEY_BEGINS = re.compile("-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----")
_KEY_ENDS = re.compile("-----END [A-Z ]{0,40}KEY-----")
_KEY_LINE = re.compile(r"(?:[\w+/=\\-]*|(?:Proc-Type|DEK-Info): .*)\Z|.*?[A-Za-z0-9+/]{32}")
"""Base64 and an old key's headers; or a line of base64 behind a logger's prefix."""

# Every repetition is bounded, or is followed by what it does not match: a hostile line takes no longer than another.
_BY_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"{_KEY_BEGINS.pattern}.*?(?:{_KEY_ENDS.pattern}|\Z)", re.DOTALL), MASK),
    (re.compile("|".join(_TOKENS), re.ASCII), MASK),
    (re.compile("|".join(_TOKENS_AT_THE_BEGINNING_OF_A_WORD), re.ASCII), MASK),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/?#'\"<>]*@"), rf"\1{MASK}@"),
)
_WORDS = ("token", "secret", "pass", "pwd", "credential", "key", "sig", "authorization", "bearer", "cookie")
_IS = r"\s{0,4}=\s{0,4}"
_COLON = r"\s{0,4}:\s{0,4}"
_OPTION = r"(?<![\w-])--(?:[a-z0-9]{1,20}[_-]){0,4}[a-z0-9]{0,20}"
_NEXT = r"(?:\s{1,4}|[\"'],\s?(?=[\"']))(?!-)"
"""From an option to its value: in a command, or in a list of arguments."""
_BEHIND_A_WORD = tuple(
    re.compile(f"(?i){pattern}")
    for pattern in (
        rf"\b(cookie(?:{_QUOTE})?{_COLON})({_QUOTED}|(?=[^\s=;,\"']{{1,200}}=)(?:=\"[^\"\r\n]*\"?|[^\r\n\"'])+)",
        rf"\b(authorization(?:{_QUOTE})?\s{{0,4}}[:=]\s{{0,4}})((?:(?P<scheme>{_SCHEMES})\s{{1,4}})?{_VALUE}(?(scheme)\S*))",
        rf"\b(bearer\s{{1,4}})({_RANDOM_BEARER})",
        rf"({_OPTION}(?:{_SECRET}|{_KEY}){_NEXT}){_NO_SENTENCE}({_VALUE})",
        rf"({_OPTION}{_TOKEN}{_NEXT}){_NO_SENTENCE}{_NO_VALUE}({_VALUE})",
        rf"((?:{_SECRET}|{_KEY}|signature|(?<![a-z])sig){_IS})({_VALUE})",
        rf"({_TOKEN}{_IS}){_NO_VALUE}({_VALUE})",
        rf"({_PASS}{_IS}){_NO_VALUE}(?!/)({_VALUE})",
        rf"((?:password|passwd|passphrase|secret)(?:{_QUOTE})?{_COLON}){_NO_SENTENCE}({_VALUE})",
        rf"((?:{_SECRET}|{_PASS}|{_TOKEN}|{_KEY}){_QUOTE}{_COLON})({_QUOTED})",
        rf"((?:{_TOKEN}|{_KEY}){_COLON})({_RANDOM})",
        rf"({_BARE_KEY}(?:{_QUOTE})?\s{{0,4}}[:=]\s{{0,4}}(?:{_QUOTE})?)({_RANDOM_KEY})",
    )
)


def redact(text: str) -> str:
    """The text with *** in the place of everything that looks like a credential."""
    for pattern, replacement in _BY_LOOKS:
        text = pattern.sub(replacement, text)
    lowered = text.lower()
    if any(word in lowered for word in _WORDS):  # ten times faster for a log's ordinary lines
        for pattern in _BEHIND_A_WORD:
            text = pattern.sub(_masked, text)
    return text


_OPENING = re.compile(_QUOTE)


def _masked(match: re.Match[str]) -> str:
    """In the quotes of the value, if it has some: JSON stays JSON."""
    opening = _OPENING.match(match[2])
    quote = opening[0] if opening else ""
    return f"{match[1]}{quote}{MASK}{quote}"


def redactor(environment: Mapping[str, str]) -> Redact:
    """`redact` that also knows the values of those variables whose names look like secrets; of a value with several
    lines, each line."""
    secrets = {
        line.strip()
        for name, value in environment.items()
        if SECRET_VARIABLE.search(name)
        for line in value.splitlines()
        if len(line.strip()) >= MIN_SECRET_LENGTH
    }
    if not secrets:
        return redact
    known = re.compile("|".join(re.escape(secret) for secret in sorted(secrets, key=len, reverse=True)))
    return lambda text: redact(known.sub(MASK, text))


class KeyBlocks:
    """`redact` for one stream, line by line: a private key has many lines, and none but the first and the last look
    like one."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._lines_left = 0
        """Within a key; 0 outside."""

    def __call__(self, line: str) -> str:
        """The next line, without credentials. Within a key, sentences are passed on: others write in between, and an
        error message may just quote the first line of a key."""
        within, self._lines_left = self._lines_left > 0, max(0, self._lines_left - 1)
        if within and (end := _KEY_ENDS.search(line)):
            self._lines_left = 0
            return MASK + self(line[end.end() :])
        *_, begin = (None, *_KEY_BEGINS.finditer(line))
        if begin:
            self._lines_left = 0 if _KEY_ENDS.search(line, begin.end()) else MAX_KEY_LINES
        elif within and _KEY_LINE.match(line.strip()):
            return MASK
        return self._redact(line)
