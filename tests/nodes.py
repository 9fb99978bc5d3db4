"""Two nodes on this machine: network namespaces that a cable joins, with an sshd each, for what starts ranks by ssh.

Nothing of the machine's own ssh is touched: keys, configs and host keys lie in a folder of the test, and the daemons
listen inside the namespaces only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from arcticseg.ranks import without_rank_variables

# Program -> package that has it.
PROGRAMS = {
    "ip": "iproute2",
    "pdsh": "pdsh",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
}
# Bits of the effective set in /proc/self/status, as of capabilities(7).
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
ADDRESSES = ("10.77.0.1", "10.77.0.2")
ADDRESSES_6 = ("fd77::1", "fd77::2")
# Where programs of the system are that a user's path may lack.
_SYSTEM = ":/usr/local/sbin:/usr/sbin:/sbin"

SSHD = """
Port 22
AddressFamily any
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
"""
SSH = """
Host *
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking no
LogLevel ERROR
"""


def program(name: str) -> str | None:
    """The path of a program, those of the system included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + _SYSTEM)


def missing() -> str | None:
    """What two such nodes need and this machine lacks; None: nothing."""
    if os.geteuid() != 0:
        return "root is needed to make network namespaces"
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    held = int(status["CapEff"], 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    if lacking:
        return f"{', '.join(lacking)} is needed to make network namespaces"
    packages = sorted({package for name, package in PROGRAMS.items() if program(name) is None})
    return f"apt-get install {' '.join(packages)}: not installed" if packages else None


class Nodes:
    """Two namespaces, with what a command inside them needs.

    Args:
        folder: for keys, configs and logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = tuple(f"arcticseg-{os.getpid()}-{node}" for node in "ab")
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Make the namespaces, their cable and their daemons."""
        for name in self.names:
            _ip("netns", "add", name)
        first, second = self.names
        _ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
        for name, address, address_6 in zip(self.names, ADDRESSES, ADDRESSES_6, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "addr", "add", f"{address_6}/64", "dev", "eth0", "nodad")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        for key in ("host", "user"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        (self.folder / "sshd_config").write_text(SSHD.format(folder=self.folder))
        (self.folder / "ssh_config").write_text(SSH.format(folder=self.folder))
        # sshd wants it, and is otherwise given it by the system's own start.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd = str(program("sshd"))
        for name in self.names:
            with open(self.folder / f"{name}.log", "wb") as log:
                command = [*self.inside(name), sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
                self._daemons.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        for address in (*ADDRESSES, *ADDRESSES_6):
            self._wait_for(address)

    def _wait_for(self, address: str) -> None:
        command = [*self.inside(self.names[0]), "ssh", "-F", str(self.folder / "ssh_config"), address, "true"]
        for _ in range(50):
            if subprocess.run(command, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError("\n".join((self.folder / f"{name}.log").read_text() for name in self.names))

    @staticmethod
    def inside(name: str) -> list[str]:
        """The words before a command that is to run in a namespace."""
        return [str(program("ip")), "netns", "exec", name]

    def environment(self) -> dict[str, str]:
        """The environment of a launcher."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLOO_", "NCCL_"))}
        own = {"PATH": path, "PDSH_SSH_ARGS_APPEND": f"-F {self.folder}/ssh_config", "DS_ACCELERATOR": "cpu"}
        return without_rank_variables(kept) | own | {"OMP_NUM_THREADS": "1"}

    def launch(self, command: Sequence[str], log: Path, node: int = 0) -> subprocess.Popen[bytes]:
        """Start a command on a node, in a process group of its own."""
        with open(log, "ab") as file:
            return subprocess.Popen(
                [*self.inside(self.names[node]), *command],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self, word: str) -> dict[int, dict[str, str]]:
        """Processes in the namespaces whose command line has a word: id -> environment."""
        return {number: known for node in self.names for number, known in _processes(node, word)}

    def ranks(self) -> dict[int, dict[str, str]]:
        """Ranks in the namespaces: id -> environment."""
        return {number: known for number, known in self.processes("launchers.train").items() if "RANK" in known}

    def sessions(self, node: int) -> list[int]:
        """All processes of a node but its daemon."""
        own = {daemon.pid for daemon in self._daemons}
        return [number for number in _inside(self.names[node]) if number not in own]

    def stop(self) -> None:
        """End all that runs inside, and remove the namespaces."""
        for name in self.names:
            for number in _inside(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        for daemon in self._daemons:
            daemon.wait(timeout=30)
        for name in self.names:
            subprocess.run([str(program("ip")), "netns", "del", name], capture_output=True)


def _processes(node: str, word: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number in _inside(node):
        with contextlib.suppress(OSError):
            line, known = (Path(f"/proc/{number}/{name}").read_bytes().decode() for name in ("cmdline", "environ"))
            if word in line.split("\0"):
                yield number, dict(pair.split("=", 1) for pair in known.split("\0") if "=" in pair)


def _inside(name: str) -> list[int]:
    done = subprocess.run([str(program("ip")), "netns", "pids", name], capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()]


def _ip(*words: str) -> None:
    _run(str(program("ip")), *words)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[Nodes]:
    """Two nodes, gone with all their processes at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = Nodes(folder)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()
