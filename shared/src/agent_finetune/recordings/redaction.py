"""The kernel's redaction: keys, tokens, passwords and addresses, in every string of a record.

Rather too much than too little: what is taken out by mistake costs a record its exact ids, what
stays in by mistake is on the disk. Scanners such as detect-secrets find what lies in source files;
they neither replace what they find nor look for addresses, so the patterns stand here. Each is
bounded, so that a text of any length is read in time that grows with its length only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SECRET = "[redacted secret]"
EMAIL = "[redacted e-mail]"

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r".*?(?:-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_TOKEN = re.compile(
    # Behind a word's end; the n of "\\n" in a string of JSON is no letter of a word.
    r"""(?: (?<![A-Za-z0-9]) | (?<=\\[bfnrt]) )(?:
      sk-[A-Za-z0-9_-]{16,}                            # OpenAI, Anthropic and their like
    | (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,}      # Stripe
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,}  # GitHub
    | glpat-[\w-]{16,}                                 # GitLab
    | hf_[A-Za-z0-9]{16,}                              # Hugging Face
    | ms-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}   # ModelScope
    | (?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}              # AWS
    | AIza[\w-]{30,} | ya29\.[\w-]{20,}                # Google
    | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{10,}        # Slack
    | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{30,}           # package registries
    | SG\.[\w-]{16,}\.[\w-]{16,}                       # SendGrid
    | (?:gsk_|r8_|nvapi-|xai-|dop_v1_)[\w-]{20,}       # Groq, Replicate, NVIDIA, xAI, DigitalOcean
    | [0-9]{8,10}:AA[\w-]{30,}                         # Telegram
    | eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?             # JSON Web Token
    )""",
    re.VERBOSE,
)
_AUTHORIZATION = re.compile(
    r"(?i)(bearer\s{1,4}|authorization['\"]?\s{0,4}[:=]\s{0,4}['\"]?(?:basic|token)\s{1,4})"
    r"(?:[\w.~+/=-]{16,}|(?=[^\s]{0,15}\d)[\w.~+/=-]{8,15})"
)
_IN_URL = re.compile(
    r"(?i)(?<![a-z0-9])([a-z][a-z0-9+.-]{1,20}://[^\s:/@]{0,64}:)[^\s/@]{1,256}(?=@)"
)
_NAMES = (
    r"(?:api[_-]?key|secret(?:[_-]?key)?|passw(?:or)?d|passwd|pwd|passphrase|token|credential"
    r"|(?:access|account|private|auth|signing|encryption)[_-]?key)"
)
_NAMED = re.compile(
    rf"""(?ix)
    (?P<head> {_NAMES} \\{{0,3}}["']? (?P<sign> \s{{0,4}} (?: := | => | [:=] ) \s{{0,4}} ) )
    (?:
      (?P<quote> \\{{0,3}}["'] ) (?P<quoted> [^\n]{{4,512}}? ) (?P=quote)
    | (?P<bare> [^\s"'`,;&<>(){{}}\[\]$\\]{{6,512}} ) (?! [\w.]* [(\[] )
    )"""
)
_SECRET_KEY = re.compile(rf"(?i){_NAMES}$")
_NO_SECRET = re.compile(r"(?i)none|null|true|false|string|str|\W*|x+|\[redacted.*|<.*>|\$\{?\w+\}?")
_EMAIL = re.compile(r"(?<!\w)\w[\w.+%-]{0,127}@(?:[^\W_](?:[\w-]{0,62})\.){1,8}[^\W\d_]{2,24}")


def redact_record(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A record without secrets and e-mail addresses; None when there are none in it.

    Every string at any depth is searched, names of arguments included. A string under a name such
    as `password` or `api_key` is taken out whole.
    """
    cleaned = _clean(record)
    return None if cleaned == record else cleaned


def redact_text(text: str) -> str:
    """A text with `[redacted secret]` and `[redacted e-mail]` in the place of what they name."""
    text = _PRIVATE_KEY.sub(SECRET, text)
    text = _IN_URL.sub(rf"\1{SECRET}", text)
    text = _AUTHORIZATION.sub(rf"\1{SECRET}", text)
    text = _TOKEN.sub(SECRET, text)
    text = _NAMED.sub(_named, text)
    return _EMAIL.sub(EMAIL, text) if "@" in text else text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return _clean_mapping(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_clean, value))
    return value


def _clean_mapping(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    cleaned: dict[Any, Any] = {}
    for key, value in mapping.items():
        name = unique = _clean(key)
        count = 1
        while unique in cleaned:  # two addresses may have been names
            count += 1
            unique = f"{name} {count}"
        secret = isinstance(key, str) and isinstance(value, str) and _SECRET_KEY.search(key)
        cleaned[unique] = SECRET if secret and not _NO_SECRET.fullmatch(value) else _clean(value)
    return cleaned


def _named(match: re.Match[str]) -> str:
    """`password=...`: a secret, unless what follows is a type, a placeholder or code."""
    value = match["quoted"] or match["bare"]
    if _NO_SECRET.fullmatch(value):
        return match[0]
    if match["quoted"]:
        return f"{match['head']}{match['quote']}{SECRET}{match['quote']}"
    if match["sign"] != "=" and not any(letter.isdigit() for letter in value):
        return match[0]  # prose, as in "password: what the user typed"
    return match["head"] + SECRET
