"""Which rank the others wait for, and when it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import asdict

import pytest

pytest.importorskip("torch")

from arcticseg.engine import progress
from arcticseg.engine.watchdog import Message, Peer, Watchdog, culprits


def message(rank: int, beats: int, waits: bool, age: float = 10.0) -> Message:
    return Message("token", rank, 1, beats, "step 3", age, waits)


def messages(*told: tuple[int, bool]) -> dict[int, Message]:
    return {rank: message(rank, beats, waits) for rank, (beats, waits) in enumerate(told)}


def test_who_is_behind_hangs() -> None:
    assert culprits(messages((5, True), (4, False), (5, True)), set(), 3) == [1]
    # Also in a call that waits for others: it is another one than theirs.
    assert culprits(messages((5, True), (4, True), (5, True)), set(), 3) == [1]
    assert culprits(messages((4, False), (5, True), (4, False)), set(), 3) == [0, 2]


def test_of_those_at_the_same_place_who_does_not_wait_hangs() -> None:
    assert culprits(messages((5, True), (5, True), (5, False)), set(), 3) == [2]


def test_where_all_wait_no_rank_is_blamed() -> None:
    assert culprits(messages((5, True), (5, True)), set(), 2) == []
    assert culprits(messages((5, False), (5, False)), set(), 2) == []
    # Of another machine nothing was heard.
    assert culprits(messages((5, True)), set(), 2) == []
    assert culprits(messages((5, False)), set(), 2) == [0]


def test_a_single_rank_can_only_be_itself() -> None:
    assert culprits(messages((5, False)), set(), 1) == [0]


def test_who_has_fallen_silent_goes_first() -> None:
    assert culprits(messages((5, True), (4, False)), {0}, 2) == [0]


@pytest.fixture
def pair() -> object:
    """Watchdogs of two ranks that are not started, on sockets of their own."""
    plugs = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for plug in plugs:
        plug.bind(("127.0.0.1", 0))
    peers = [Peer("here", 0, "", "127.0.0.1", plug.getsockname()[1]) for plug in plugs]
    yield [Watchdog(20.0, rank, peers, "token", plug) for rank, plug in enumerate(plugs)]
    for plug in plugs:
        plug.close()


def test_a_long_phase_with_signs_of_life_is_no_hang(pair: list[Watchdog], monkeypatch: pytest.MonkeyPatch) -> None:
    first = pair[0]
    monkeypatch.setattr(progress.progress(), "steps", 2)
    first._age = 100.0
    first._messages = {0: message(0, 5, True, age=100.0), 1: message(1, 4, False, age=1.0)}
    first._silence = {1: 0.0}
    assert first._verdict() is None
    first._messages[1] = message(1, 4, False, age=19.0)
    assert first._verdict() == [1]
    # Compilation may take longer.
    monkeypatch.setattr(progress.progress(), "steps", 1)
    assert first._verdict() is None


def test_messages_of_others_count_only_with_the_token_and_in_order(pair: list[Watchdog]) -> None:
    first, second = pair
    second._tell()
    second._tell([1])
    first._listen(0.3)
    assert first._messages[1].tick == 2
    assert first._verdict() == [1]
    second._token = "of another training"
    second._tell()
    hostile = {**asdict(message(1, 5, True)), "token": "of nobody", "rank": [1], "tick": {}}
    for data in (b"\xff{", json.dumps(hostile).encode()):
        first._plug.sendto(data, first._plug.getsockname())
    first._listen(0.3)
    assert first._messages[1].tick == 2


def test_time_in_which_the_process_was_stopped_does_not_count(pair: list[Watchdog]) -> None:
    first = pair[0]
    first._measure()
    first._last = time.monotonic() - 1000
    first._measure()
    assert first._age <= 2 * first._poll


def test_beats_of_the_main_thread_count_alone() -> None:
    before = progress.progress().beats
    other = threading.Thread(target=progress.beat)
    other.start()
    other.join()
    assert progress.progress().beats == before
    progress.beat("what comes")
    assert (progress.progress().beats, progress.progress().phase) == (before + 1, "what comes")
