import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcticseg import config
from arcticseg.data.config import DataConfig
from arcticseg.data.source import Remote, open_source
from arcticseg.errors import BadValueError, ConfigError
from arcticseg.shown import ADDRESSES, brief, hidden, redacted, revealed, shown, visible

SECRET = "sesame"
# Address -> how it is shown.
WITH_CREDENTIALS = {
    "http://me:sesame@ice.example/set": "http://***@ice.example/set",
    "https://sesame@ice.example:8080": "https://***@ice.example:8080",
    "http://me:sesa@me:sesame@ice.example/a@b": "http://***@ice.example/a@b",
    "http://me:sesame@[::1]": "http://***@[::1]",
    "s3://KEY:sesame@bucket/some/shards": "s3://***@bucket/some/shards",
    "https://ice.example/set?X-Amz-Credential=sesame&X-Amz-Date=2026&X-Amz-Signature=sesame": (
        "https://ice.example/set?X-Amz-Credential=***&X-Amz-Date=2026&X-Amz-Signature=***"
    ),
    "https://ice.blob.example/set?sv=2023&se=2027&sig=sesame%3D": "https://ice.blob.example/set?sv=2023&se=2027&sig=***",
    "http://[::1]:80/set?access_token=sesame#x": "http://[::1]:80/set?access_token=***#x",
    "https://ice.example/set?GoogleAccessId=a&Signature=sesame;key=sesame": (
        "https://ice.example/set?GoogleAccessId=a&Signature=***;key=***"
    ),
    "https://ice.example/?apikey=sesame&password=sesame": "https://ice.example/?apikey=***&password=***",
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(ADDRESSES, "")
    yield
    os.environ.pop(ADDRESSES, None)


@pytest.mark.parametrize(("address", "expected"), WITH_CREDENTIALS.items())
def test_credentials_are_hidden_wherever_an_address_stands(address: str, expected: str) -> None:
    for text in ("{}", "data.shards={}", "data.shards=[{}, http://b/c]", "('{}') is no set; repair it", "[{}]"):
        assert redacted(text.format(address)) == text.format(expected)
        assert redacted(text.format(expected)) == text.format(expected)


def test_addresses_side_by_side() -> None:
    text = "data.shards=[http://a:sesame@b/c,http://d:sesame@e/f?sig=sesame,s3://g:sesame@h]"
    assert redacted(text) == "data.shards=[http://***@b/c,http://***@e/f?sig=***,s3://***@h]"


def test_what_has_no_credentials_stays() -> None:
    for text in ("http://ice.example:80/set?v=1", "/a/b@c", "me@ice.example", "s3://bucket/a", "a: b@c // d=e"):
        assert redacted(text) == text


@pytest.mark.parametrize(("address", "expected"), WITH_CREDENTIALS.items())
def test_a_config_has_no_credentials_and_its_source_has(address: str, expected: str) -> None:
    """Of the command line and of a file alike; and processes that are started later know them, too."""
    for keys in (
        config.override({}, [f"shards={address}"]),
        config.override({}, [f"shards=['{address}', http://a/b]"]),
        config.override({}, [hidden(f"shards=['{address}', http://a/b]")]),
    ):
        cfg = config.build(DataConfig, keys)
        assert cfg.places[0] == expected
        assert SECRET not in repr(cfg)
        assert revealed(cfg.places[0]) == address
    source = open_source(expected)
    assert isinstance(source, Remote)
    assert source.address == expected
    command = [sys.executable, "-c", f"from arcticseg.shown import revealed; print(revealed({expected!r}))"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == address


def test_a_new_password_takes_the_place_of_the_old() -> None:
    for password in ("old", "new"):
        assert hidden(f"http://me:{password}@a/b") == "http://***@a/b"
    assert revealed("http://***@a/b") == "http://me:new@a/b"


def test_credentials_that_nobody_gave() -> None:
    with pytest.raises(ConfigError, match=rf"http://\*\*\*@a/b, .*data\.shards=.*{ADDRESSES}"):
        open_source("http://***@a/b")


def test_the_stock_reader_gets_no_credentials() -> None:
    """It hands addresses to another program, on its command line."""
    with pytest.raises(BadValueError, match=r"'reader'.*set index"):
        DataConfig(shards="http://***@a/b", reader="webdataset")


def test_the_process_itself_drops_them_from_its_command_line(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("{}\n")
    script = (
        "import sys; from launchers.command import without_credentials; rest = without_credentials(None); "
        "print(rest, open('/proc/self/cmdline').read().split(chr(0))); "
        "from arcticseg.shown import revealed; print(revealed('http://***@a/b'))"
    )
    command = [sys.executable, "-c", script, "data.shards=http://me:sesame@a/b", "steps=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert SECRET not in first
    assert first.count("data.shards=http://***@a/b") == 2
    assert second == "http://me:sesame@a/b"


@given(st.text())
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in visible(text))
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for line in shown(text).split("\n") for char in line)
    visible(text).encode()  # halves of characters are escaped, too
    plain = "".join(char for char in text if char.isascii() and char.isprintable())
    assert visible(plain) == plain


def test_escapes() -> None:
    assert visible("a\x1b[2Jb\tc\nd\x9be\u202ef\udcff") == r"a\x1b[2Jb\tc\nd\x9be\u202ef\udcff"
    assert shown("a\r\nb\x07") == "a\\r\nb\\x07"
    assert visible("Båt, 氷") == "Båt, 氷"
    assert brief("x" * 1000) == f"'{'x' * 37}...{'x' * 38}'"
    assert len(brief([["x" * 100] * 1000] * 1000)) == 200
