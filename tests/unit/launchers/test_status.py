"""Which rank tells an error."""

from __future__ import annotations

import pytest

from arcticseg.errors import BadValueError, ShardError
from launchers import status
from launchers.status import FAULT, PROBLEMS, USER_ERROR, guarded

LINE = "arcticseg: error: a.tar: is cut\n"


def fail(met_by: int | None) -> None:
    error = ShardError("a.tar: is cut")
    error.met_by = met_by
    raise error


@pytest.mark.parametrize(
    ("rank", "met_by", "told"),
    [
        (0, None, LINE),
        (0, 0, LINE),
        (0, 1, "arcticseg: rank 1 has met an error, so all ranks end\n"),
        (1, 1, LINE),
        (1, 0, ""),
        (2, 1, ""),
    ],
)
def test_an_error_is_told_once_by_the_rank_that_met_it(
    rank: int,
    met_by: int | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("this error need not wait"))
    assert guarded(lambda: fail(met_by), patience=3.0) == USER_ERROR
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_a_rank_alone_tells_its_error_after_rank_0_could(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(variable, "1")
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    assert guarded(lambda: fail(None), patience=3.0) == USER_ERROR
    assert (capsys.readouterr().err, waits) == (LINE, [3.0])


def test_a_rank_that_lost_another_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose() -> None:
        raise RuntimeError("[/x/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:21")

    monkeypatch.setattr(status, "_LOST_PATIENCE", 0.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert guarded(lose) == PROBLEMS
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert guarded(lose) == FAULT


def test_errors_of_values_travel_between_ranks() -> None:
    import pickle

    error = BadValueError("seed", -1, "set 0 or more")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
