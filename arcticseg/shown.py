"""What is shown or kept of texts from elsewhere: without control characters, without credentials."""

from __future__ import annotations

import os
import re
import reprlib
from typing import Any

# Stands where credentials were.
HIDDEN = "***"
# The environment variable that holds addresses with their credentials, apart by spaces, for this process and those that
# it starts: unlike a command line, nobody else on the machine sees it.
ADDRESSES = "ARCTICSEG_ADDRESSES"

# C0 and C1 controls, DEL, separators of lines, marks that turn the direction of writing, halves of characters.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# In a list without spaces, the next begins behind a comma.
_ADDRESS = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+?(?=,\s*[a-z][a-z0-9+.-]*://|[\s'\"<>]|$)")
_USER = re.compile(r"(?i)^([a-z][a-z0-9+.-]*://)[^/?#]*@")
# Parts of a query that give access: signatures of S3, Google and Azure (SAS tokens), keys and tokens by common names.
_SECRET = re.compile(
    r"(?i)([?&;#](?:[^=&;#]*(?:sig|signature|credential|token|secret|password|passwd|key|auth)[^=&;#]*)=)[^&;#]*"
)

_BRACKETS = {"]": "[", "}": "{", ")": "("}

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
# The longest that a value is shown.
_BRIEF = 200
_repr.maxlevel, _repr.maxlist, _repr.maxdict, _repr.maxtuple, _repr.maxlong = 4, 12, 12, 12, 40


def visible(text: str) -> str:
    """A text in one line, control characters escaped, so that a terminal obeys nothing in it."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], " ".join(text.split(" ")))


def shown(text: object) -> str:
    """A text of several lines as a terminal gets it: without control characters and credentials."""
    return "\n".join(map(visible, redacted(str(text)).split("\n")))


def brief(value: Any) -> str:
    """A value of a file for a message: as Python writes it, escaped and cut."""
    text = visible(_repr.repr(value))
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 20]}...{text[-17:]}"


def redacted(text: str) -> str:
    """A text with the credentials of all addresses in it hidden: user and password, signatures, keys and tokens.

    >>> redacted("http://me:word@ice.example/set?X-Amz-Signature=ab12&v=1")
    'http://***@ice.example/set?X-Amz-Signature=***&v=1'
    """
    return _ADDRESS.sub(lambda match: _redacted(_bare(match[0])) + match[0][len(_bare(match[0])) :], text)


def hidden(text: str) -> str:
    """`redacted`, and the addresses are remembered with their credentials, for `revealed`."""
    known = os.environ.get(ADDRESSES, "").split()
    for match in _ADDRESS.finditer(text) if "://" in text else ():
        address = _bare(match[0])
        if _redacted(address) != address:
            known = [other for other in known if _redacted(other) != _redacted(address)] + [address]
            os.environ[ADDRESSES] = " ".join(known)
    return redacted(text)


def revealed(address: str) -> str | None:
    """An address that `hidden` gave, with its credentials; None where they are not known."""
    if HIDDEN not in address:
        return address
    known = os.environ.get(ADDRESSES, "").split()
    return next((other for other in known if other != address and _redacted(other) == address), None)


def _bare(address: str) -> str:
    """An address without the brackets of the list that it ends."""
    while address and address[-1] in _BRACKETS and address.count(address[-1]) > address.count(_BRACKETS[address[-1]]):
        address = address[:-1]
    return address


def _redacted(address: str) -> str:
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _USER.sub(rf"\g<1>{HIDDEN}@", address))
