"""What launchers say in the environment."""

from __future__ import annotations

import socket

import pytest

from arcticseg.errors import ConfigError
from arcticseg.ranks import (
    RANK_VARIABLES,
    find_master,
    first_node,
    free_port,
    is_main_rank,
    lost_peer,
    several_ranks,
    tasks_here,
    without_rank_variables,
)


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


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n07", "n07"),
        ("n[07-08]", "n07"),
        ("gpu-[1,4-6],cpu2", "gpu-1"),
        ("a1,b2", "a1"),
        ("node-3a", "node-3a"),
        ("node[01-03,07],gpu-a[1-2]x", "node01"),
        ("gpu-a[1-2]x,node[01-03,07]", "gpu-a1x"),
        ("r[1-2]n[08-16]-ib", "r1n08-ib"),
        ("node[7]", "node7"),
        ("n0001.cluster.example,n0002.cluster.example", "n0001.cluster.example"),
        ("bgl[000x733]", "bgl000x733"),
        ("n[099-101]", "n099"),
    ],
)
def test_tasks_of_slurm_meet_on_the_first_node(nodes: str, first: str) -> None:
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "20007"}
    find_master(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == (first, "10007")


def test_an_address_that_is_set_needs_no_port() -> None:
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "20007", "MASTER_ADDR": "fd00::1"}
    find_master(environment)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("fd00::1", "10007")
    environment = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "20007", "MASTER_ADDR": "n1", "MASTER_PORT": "1234"}
    find_master(environment)
    assert environment["MASTER_PORT"] == "1234"


@pytest.mark.parametrize(
    "nodes", ["", ",", "n1,", "n[1-2", "n1-2]", "n[]", "n[1-]", "n[1,,2]", "n[1[2]]", "n1 n2", "[", "n[1-2]],n3"]
)
def test_what_is_no_list_of_nodes_is_refused(nodes: str) -> None:
    assert first_node(nodes) is None
    with pytest.raises(ConfigError, match="MASTER_ADDR is not set"):
        find_master({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": nodes, "SLURM_JOB_ID": "20007"})


@pytest.mark.parametrize(
    ("text", "node", "tasks"),
    [("2(x3),1", "0", 2), ("2(x3),1", "2", 2), ("2(x3),1", "3", 1), ("4", "0", 4), ("1,2,3", "1", 2)],
)
def test_the_tasks_of_a_node_are_counted(text: str, node: str, tasks: int) -> None:
    assert tasks_here({"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": node}) == tasks


@pytest.mark.parametrize(("text", "node"), [("", "0"), ("2", ""), ("2(x2)", "2"), ("2(x", "0"), ("two", "0")])
def test_tasks_that_are_not_told_are_not_guessed(text: str, node: str) -> None:
    assert tasks_here({"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": node}) is None


@pytest.mark.parametrize("variables", [{}, {"SLURM_NTASKS": "8"}, {"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1"}])
def test_a_task_alone_meets_nobody(variables: dict[str, str]) -> None:
    environment = dict(variables)
    find_master(environment)
    assert environment == variables


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_tasks_that_would_train_apart_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 4"):
        find_master({name: "4"})


def test_several_ranks_are_known_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert not several_ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert several_ranks()


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/p/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("seed"), False),
    ],
)
def test_the_loss_of_another_rank_is_known(error: Exception, lost: bool) -> None:
    assert lost_peer(error) == lost
