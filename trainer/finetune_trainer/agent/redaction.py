"""Removes credentials from text before it reaches a log, a file or a status.

Three kinds are recognised by their form: tokens with a known prefix (hf_, ghp_, AKIA), values after a word for a secret
(`password=VALUE`, `"token": "VALUE"`, `--token VALUE`, `Bearer VALUE`), and credentials in URLs. Values that are set in
the environment are also recognised (`redactor`), and the lines of a private key by its first line (`KeyBlocks`). The
operator and the trainer both import this module, so it uses the standard library only.

A match is replaced as a whole, so no part of a token remains. Redacting twice changes nothing. Words such as `token`
and `key` mostly mean something else in the log of a training, so after them only what looks like a credential is
removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MASK = "***"
MIN_SECRET_LENGTH = 8
"""The minimum length of a secret value in the environment: a shorter one would also mask ordinary words."""
MAX_KEY_LINES = 100
"""The maximum number of lines of a private key in a stream. A key of 4096 bits has 52, and a header without a key must
not hide the rest of a log."""
SECRET_VARIABLE = re.compile(
    "TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|KEY|(?<![A-Z])PASS(?![A-Z])|_PWD$", re.IGNORECASE
)

Redact = Callable[[str], str]

_NO_NAME = r"(?:(?=[\w-]{0,100}\d)(?=[\w-]{0,100}[A-Z])[A-Za-z0-9][\w-]{18,}|[A-Za-z0-9]{24,}[\w-]*)"
"""Matches random text, but not the names of models and runs, which are lower-case words and numbers with hyphens."""
_TOKENS = (
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}",  # Hugging Face: users, organisations
    r"gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{20,}",  # GitHub
    r"glpat-[\w-]{16,}",  # GitLab
    r"(?:AKIA|ASIA)[A-Z0-9]{12,}",  # AWS
    r"AIza[\w-]{30,}|ya29\.[\w-]{16,}",  # Google
    r"xox[abeoprs]-[\w-]{10,}",  # Slack
    r"npm_[A-Za-z0-9]{20,}|pypi-AgE[\w-]{12,}|dckr_pat_[\w-]{16,}",  # registries
    r"eyJ[\w-]{6,600}\.eyJ[\w-]{6,}\.[\w-]*",  # JSON Web Tokens, for example of service accounts
)
_TOKENS_AT_THE_BEGINNING_OF_A_WORD = (
    rf"(?<![A-Za-z0-9-])(?:sk|nvapi)-{_NO_NAME}",  # OpenAI and others, NVIDIA
    r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
)
"""Patterns for tokens at the beginning of a word. They are applied after the others, because a word begins after a
mask."""
_SECRET = r"passwords?|passwd|passphrase|secrets?|credentials?"
_PASS = r"(?<![A-Za-z])(?:pwd|pass)"
_KEY = (
    r"(?:api|access|account|auth|encryption|license|master|private|secret|shared|signing|ssh)[-_]?key(?:[-_]?id)?"
    r"|(?-i:_KEY)|(?<=[a-z])(?-i:Key)"
)
_BARE_KEY = r"(?<![A-Za-z])key"
"""Matches `key` alone, which mostly belongs to a dictionary, a taint or a state dict, and seldom to a credential."""
_TOKEN = "".join(f"(?<!{kind}[_-])" for kind in ("pad", "eos", "bos", "unk", "sep", "cls", "mask", "image")) + "token"
"""Matches `token`, but not in names such as `pad_token`, which tokenizers print."""
_QUOTE = r"\\{0,7}[\"']"
"""Matches a quotation mark. JSON within JSON has backslashes before it."""
_QUOTED = (
    r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?"
    r"|(?P<escaped>\\{1,7}[\"'])(?:(?!(?<!\\)(?P=escaped))[\s\S])*(?:(?P=escaped))?"
)
_VALUE = rf"(?:{_QUOTED}|\S+)"
_RANDOM = r"(?=[\w~+/=.-]*\d)(?=[\w~+/=.-]*[A-Za-z])[\w~+/=.-]{16,}"
"""Matches a generated value, as opposed to a word of a sentence."""
_RANDOM_KEY = (
    r"(?=[\w~+=-]{0,200}\d)(?=[\w~+=-]{0,200}[A-Za-z])"
    r"(?:(?-i:(?=[\w~+=-]{0,200}[a-z])(?=[\w~+=-]{0,200}[A-Z]))[\w~+=-]{16,}+|[A-Za-z0-9]{16,}+[\w~+=-]*+)(?![./]\w)"
)
"""Matches a generated value after `key`: without dots and slashes, and not a name such as `snake_case_name_2`."""
_RANDOM_BEARER = r"(?:(?=[\w~+/=.-]{0,200}(?:\d|(?-i:[a-z][A-Z])))[\w~+/=.-]{8,}|[A-Za-z]{16,}[\w~+/=.-]*)"
_NO_VALUE = r"(?!(?:\d{1,9}(?:\.\d{1,9})?|none|null|true|false)(?:[\s,;)\]}]|\.?\Z|\.\s))"
"""Excludes numbers and constants: `token=5` is a count of tokens."""
_NO_SENTENCE = (
    r"(?!(?-i:a|an|and|are|argument|as|at|be|but|can|cannot|could|does|expected|field|flag|for|from|has|have|if|in"
    r"|incorrect|invalid|is|it|may|missing|must|needs|no|not|of|on|option|or|required|should|that|the|this|to|too"
    r"|value|was|were|which|will|with|wrong|you|your)(?:[\s,;]|[.:!]?(?:\s|\Z)))"
)
"""Excludes sentences such as `password: must be set`. The words are listed, because any other word in lower case may be
a password."""
_SCHEMES = "basic|bearer|digest|negotiate|token"

_KEY_BEGINS = re.compile("-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----")
_KEY_ENDS = re.compile("-----END [A-Z ]{0,40}KEY-----")
_KEY_LINE = re.compile(r"(?:[\w+/=\\-]*|(?:Proc-Type|DEK-Info): .*)\Z|.*?[A-Za-z0-9+/]{32}")
"""Matches a line of base64, a header of an old key, or a line of base64 after a logger's prefix."""

# Every repetition is bounded or is followed by something that it cannot match, so a hostile line takes no longer than
# another.
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
"""Matches the separator between an option and its value, in a command or in a list of arguments."""
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
    """Return the text with *** in place of everything that looks like a credential."""
    for pattern, replacement in _BY_LOOKS:
        text = pattern.sub(replacement, text)
    lowered = text.lower()
    if any(word in lowered for word in _WORDS):  # makes ordinary log lines ten times faster
        for pattern in _BEHIND_A_WORD:
            text = pattern.sub(_masked, text)
    return text


_OPENING = re.compile(_QUOTE)


def _masked(match: re.Match[str]) -> str:
    """Return the mask, in the quotation marks of the value if it has any, so that JSON stays valid."""
    opening = _OPENING.match(match[2])
    quote = opening[0] if opening else ""
    return f"{match[1]}{quote}{MASK}{quote}"


def redactor(environment: Mapping[str, str]) -> Redact:
    """Return a `redact` that also masks the values of variables whose names look like secrets.

    If a value has several lines, each line is masked.
    """
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
    """Redacts one stream line by line, including private keys.

    A private key has many lines, and only the first and the last are recognisable by themselves.
    """

    def __init__(self, redact: Redact) -> None:
        self._redact = redact
        self._lines_left = 0
        """The number of lines that may still belong to the current key; 0 outside a key."""

    def __call__(self, line: str) -> str:
        """Return the next line without credentials.

        Sentences within a key are passed on: other writers may interleave, and an error message may only quote the
        first line of a key.
        """
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
