"""XML of Sentinel-1 products to trees and numbers, with bounds: products come from elsewhere.

Documents with a DOCTYPE are refused, so that no entity is expanded and nothing else is read for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from arcticseg.errors import SceneError

Float = NDArray[np.float64]

# The largest annotations of real products have 2 MB and a depth of 8.
_MAX_DEPTH = 64
_MAX_ELEMENTS = 2_000_000
_DAMAGED = "it is damaged; get the product again"


def parse(data: bytes, place: str) -> Element:
    """The root of a document; tags without namespace prefixes.

    Args:
        place: names the document in errors.

    Raises:
        SceneError: it is not well-formed, has a DOCTYPE, or is deeper or larger than any annotation.
    """
    builder = TreeBuilder()
    depth = elements = 0

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > _MAX_DEPTH or elements > _MAX_ELEMENTS:
            raise SceneError(f"{place}: has more or deeper elements than an annotation; {_DAMAGED}")
        builder.start(tag.rpartition(":")[2], dict(attributes))

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition(":")[2])

    def refuse(*_: object) -> None:
        raise SceneError(f"{place}: has a DOCTYPE, which annotations never have; get the product again")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, AssertionError) as error:
        raise SceneError(f"{place}: is not well-formed XML ({error}); {_DAMAGED}") from error


def text(element: Element, path: str, place: str) -> str:
    """The text of a descendant.

    Raises:
        SceneError: there is none.
    """
    content = (element.findtext(path) or "").strip()
    if not content:
        raise SceneError(f"{place}: {path} is missing; {_DAMAGED}")
    return content


def number(element: Element, path: str, place: str) -> float:
    """A finite number.

    Raises:
        SceneError: there is none.
    """
    return float(numbers(element, path, place, 1)[0])


def integer(element: Element, path: str, place: str) -> int:
    """A whole number.

    Raises:
        SceneError: there is none.
    """
    content = text(element, path, place)
    if not re.fullmatch(r"[+-]?\d{1,12}", content):
        raise SceneError(f"{place}: {path} is '{content[:40]}', not a whole number; {_DAMAGED}")
    return int(content)


def numbers(element: Element, path: str, place: str, count: int | None = None) -> Float:
    """A list of finite numbers, float64 [n], n > 0.

    Raises:
        SceneError: there is none, or not `count` of them.
    """
    content = text(element, path, place)
    try:
        values = np.array(content.split(), np.float64)
    except ValueError as error:
        raise SceneError(f"{place}: {path} is '{content[:40]}', not numbers; {_DAMAGED}") from error
    if not np.isfinite(values).all() or (count is not None and values.size != count):
        raise SceneError(f"{place}: {path} holds {values.size} numbers, or one that is not finite; {_DAMAGED}")
    return values
