"""What launchers say in the environment."""

from __future__ import annotations

import socket

import pytest

from arcticseg.ranks import RANK_VARIABLES, free_port, is_main_rank, without_rank_variables


def test_a_process_beside_a_training_is_not_a_rank_of_it() -> None:
    environment = dict.fromkeys(RANK_VARIABLES, "1") | {"PATH": "/bin", "SLURM_PROCID": "3"}
    assert {"RANK", "WORLD_SIZE", "MASTER_PORT"} <= set(RANK_VARIABLES)
    assert without_rank_variables(environment) == {"PATH": "/bin", "SLURM_PROCID": "3"}


@pytest.mark.parametrize(
    ("variables", "is_main"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "2"}, False),
        ({"RANK": "0", "SLURM_PROCID": "2"}, True),
    ],
)
def test_the_main_rank_is_known_from_torchrun_and_srun(
    variables: dict[str, str], is_main: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_main_rank() == is_main


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
