"""What a signal may not cut, and how much memory there is."""

import os
import signal
import sys
from pathlib import Path

import pytest

from headway import process
from headway.commands.common import finishing


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
def test_the_writing_of_results_is_not_cut() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with finishing():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_memory_of_a_container_is_its_limit_less_what_is_used_without_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 48000000 kB\n",
        "/sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 600\nactive_file 300\n",
        "/sys/fs/cgroup/memory.current": "1000\n",
        "/sys/fs/cgroup/memory.max": "1500\n",
    }

    def read_text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    assert process.available_memory() == 1400
    files["/sys/fs/cgroup/memory.current"] = "9000\n"
    assert process.available_memory() == 1  # none left, which is not the same as unknown
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert process.available_memory() == 1024 * 48_000_000
    del files["/proc/meminfo"]
    assert process.available_memory() == 0
