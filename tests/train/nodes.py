"""Two nodes of a torchrun on this machine: two agents of 127.0.0.1, or two network namespaces with a cable between.

The namespaces belong to a user namespace of their own, so that nobody needs to be root where the kernel allows them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path


class Nodes:
    """Two nodes, each with one process. addresses: of both; prefix: what runs a command on each."""

    def __init__(self) -> None:
        self.prefix: list[list[str]] = [[], []]
        self.address, self.interface = "127.0.0.1", "lo"
        self.agents: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> None:
        """`headway` with these arguments on both nodes, as docs/scale.md has it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        told = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment}
        told["GLOO_SOCKET_IFNAME"] = self.interface
        self.agents = []
        for rank in range(2):
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
            torchrun += ["--node-rank", str(rank), "--master-addr", self.address, "--master-port", str(port)]
            command = [*self.prefix[rank], *torchrun, "-m", "headway.cli", *arguments]
            out, err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
            agent = subprocess.Popen(command, env=told, stdout=out, stderr=err, text=True)
            agent.out, agent.err = out, err  # type: ignore[attr-defined]
            self.agents.append(agent)

    def end(self, node: int, seconds: float = 120.0) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a node's agent, which has its worker's."""
        agent = self.agents[node]
        code = agent.wait(seconds)
        texts = []
        for stream in (agent.out, agent.err):  # type: ignore[attr-defined]
            stream.seek(0)
            texts.append(stream.read())
        return code, texts[0], texts[1]

    def kill(self, node: int) -> None:
        """The agent and its worker, as when the node loses its power."""
        processes = [self.agents[node].pid]
        for pid in processes:
            processes += children_of(pid)
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        raise NotImplementedError("127.0.0.1 has no cable")

    def close(self) -> None:
        for node in range(len(self.agents)):
            self.kill(node)


class Namespaces(Nodes):
    """Each node has a network of its own. Raises: RuntimeError with the reason where the machine does not allow it."""

    def __init__(self) -> None:
        super().__init__()
        self.address, self.interface = "10.77.0.1", "hwcable"
        first = self._hold("unshare", "--user", "--map-root-user", "--net")
        inside = ["nsenter", "--target", str(first), "--user", "--net", "--preserve-credentials"]
        second = self._hold(*inside, "unshare", "--net")
        other = ["nsenter", "--target", str(second), "--user", "--net", "--preserve-credentials"]
        self.prefix = [inside, other]
        self._ip(0, "link", "add", "hwcable", "type", "veth", "peer", "name", "hwcable", "netns", str(second))
        for node in range(2):
            self._ip(node, "addr", "add", f"10.77.0.{node + 1}/24", "dev", "hwcable")
            self._ip(node, "link", "set", "hwcable", "up")
            self._ip(node, "link", "set", "lo", "up")

    def _hold(self, *command: str) -> int:
        """A process that keeps namespaces; its id."""
        if not hasattr(self, "holders"):
            self.holders: list[subprocess.Popen[bytes]] = []
        try:
            holder = subprocess.Popen([*command, "sh", "-c", "echo up; exec sleep 3600"], stdout=-1, stderr=-1)
        except FileNotFoundError as error:
            raise RuntimeError(f"{error.filename} is not installed (util-linux)") from None
        self.holders.append(holder)
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"up\n":
            raise RuntimeError(f"no network namespace: {holder.stderr.read().decode().strip()}")
        return holder.pid

    def _ip(self, node: int, *arguments: str) -> None:
        done = subprocess.run([*self.prefix[node], "ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def cut(self) -> None:
        """No connection ends, no answer comes."""
        self._ip(1, "link", "set", "hwcable", "down")

    def close(self) -> None:
        super().close()
        for holder in self.holders:
            holder.kill()
            holder.wait()


def children_of(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and f"\nPPid:\t{pid}\n" in (folder / "status").read_text():
                found.append(int(folder.name))
    return found


def wait_for(path: Path, text: str, seconds: float = 120.0) -> None:
    """Until a file has a text. Raises: TimeoutError."""
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        if time.monotonic() > end:
            raise TimeoutError(f"{path} never had {text!r}")
        time.sleep(0.02)
