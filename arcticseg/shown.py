"""What is shown or kept of texts from elsewhere: without control characters, without credentials."""

from __future__ import annotations

import re
import reprlib
from typing import Any

# Stands where credentials were.
HIDDEN = "***"

# C0 and C1 controls, DEL, separators of lines, marks that turn the direction of writing, halves of characters.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_ADDRESS = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+")
_USER = re.compile(r"(?i)^([a-z][a-z0-9+.-]*://)[^/?#]*@")
# Parts of a query that give access: signatures of S3, Google and Azure (SAS tokens), keys and tokens by common names.
_SECRET = re.compile(
    r"(?i)([?&;#](?:[^=&;#]*(?:sig|signature|credential|token|secret|password|passwd|key|auth)[^=&;#]*)=)[^&;#]*"
)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlevel, _repr.maxlist, _repr.maxdict, _repr.maxtuple, _repr.maxlong = 2, 4, 4, 4, 40


def visible(text: str) -> str:
    """A text in one line, control characters escaped, so that a terminal obeys nothing in it."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], " ".join(text.split(" ")))


def brief(value: Any) -> str:
    """A value of a file for a message: as Python writes it, escaped and cut."""
    return visible(_repr.repr(value))


def redacted(text: str) -> str:
    """A text with the credentials of all addresses in it hidden: user and password, signatures, keys and tokens.

    >>> redacted("http://me:word@ice.example/set?X-Amz-Signature=ab12&v=1")
    'http://***@ice.example/set?X-Amz-Signature=***&v=1'
    """
    return _ADDRESS.sub(lambda match: _redacted(match[0]), text)


def _redacted(address: str) -> str:
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _USER.sub(rf"\g<1>{HIDDEN}@", address))
