"""Takes credentials out of text, before it reaches a log, a file or a status.

Three kinds are known by their looks: tokens that say what they are (hf_…, ghp_…, AKIA…), values that stand behind a
word for a secret (`password=…`, `"token": "…"`, `Bearer …`), and credentials in URLs. What is set in the environment is
known by its value besides (`redactor`). The operator and the trainer both import this: no libraries.

A finding is replaced as a whole, so the rest of a token never stays; redacting twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MASK = "***"
MIN_SECRET_LENGTH = 8
"""Of a value in the environment: a shorter one would take ordinary words with it."""
SECRET_VARIABLE = re.compile("TOKEN|SECRET|PASSWORD|KEY", re.IGNORECASE)

Redact = Callable[[str], str]

_TOKENS = (
    r"hf_[A-Za-z0-9]{16,}",  # Hugging Face
    r"gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{20,}",  # GitHub
    r"glpat-[\w-]{16,}",  # GitLab
    r"(?:AKIA|ASIA)[A-Z0-9]{12,}",  # AWS
    r"AIza[\w-]{30,}|ya29\.[\w-]{16,}",  # Google
    r"xox[abeoprs]-[\w-]{10,}",  # Slack
    r"(?<![a-z])sk-[A-Za-z0-9][\w-]{18,}",  # OpenAI and others
    r"eyJ[\w-]{6,600}\.eyJ[\w-]{6,}\.[\w-]*",  # JSON Web Tokens, as service accounts have
)
_SECRET = r"passwords?|passwd|passphrase|secrets?|credentials?"
_KEY = r"api[-_]?key|access[-_]?key(?:[-_]?id)?|secret[-_]?key|private[-_]?key|(?<![A-Za-z])key|(?<=[a-z])(?-i:Key)"
_TOKEN = "".join(f"(?<!{kind}_)" for kind in ("pad", "eos", "bos", "unk", "sep", "cls", "mask", "image")) + "token"
"""`pad_token=…` is no secret: tokenizers speak so."""
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?"
_VALUE = rf"(?:{_QUOTED}|\S+)"
_RANDOM = r"(?=[\w~+/=.-]*\d)(?=[\w~+/=.-]*[A-Za-z])[\w~+/=.-]{16,}"
"""What a generated value looks like, as opposed to a word of a sentence."""
_SCHEMES = "basic|bearer|digest|negotiate|token"

# Every repetition is bounded, or is followed by what it does not match: a hostile line takes no longer than another.
_BY_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}KEY-----|\Z)", re.DOTALL), MASK),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/?#'\"<>]*@"), rf"\1{MASK}@"),
    (re.compile("|".join(_TOKENS)), MASK),
)
_WORDS = ("token", "secret", "passw", "passphrase", "credential", "key", "sig", "authorization", "bearer")
_BEHIND_A_WORD = tuple(
    re.compile(f"(?i){pattern}")
    for pattern in (
        rf"\b(authorization[\"']?\s?[:=]\s?)[\"']?(?:(?:{_SCHEMES})\s+)?({_VALUE})",
        r"\b(bearer\s)([\w~+/=.-]{8,})",
        rf"((?:{_SECRET}|{_TOKEN}|{_KEY}|signature|(?<![a-z])sig)\s?=\s?)({_VALUE})",
        rf"((?:password|passwd|passphrase|secret)[\"']?\s?:\s?)({_VALUE})",
        rf"((?:{_SECRET}|{_TOKEN}|{_KEY})[\"']\s?:\s?)({_QUOTED})",
        rf"((?:{_TOKEN}|{_KEY})\s?:\s?)({_RANDOM})",
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


def _masked(match: re.Match[str]) -> str:
    """In the quotes of the value, if it has some: JSON stays JSON."""
    quote = match[2][0] if match[2][0] in "\"'" else ""
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
