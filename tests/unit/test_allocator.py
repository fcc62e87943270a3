"""glibc's thresholds: which pages a freed block leaves behind, counted in page faults of processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

from headway.allocator import keep_memory

CODE = """
import resource
from headway.allocator import keep_memory
done = keep_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (64 << 20)
    del block
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")


def run(**environment: str) -> tuple[str, int]:
    """(what `keep_memory` said, page faults of the third block of 64 MiB)."""
    own = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "HEADWAY_MALLOC")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    command = [sys.executable, "-c", CODE]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | environment)
    done, faults = result.stdout.split()
    return done, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_a_freed_block_is_used_again():
    done, faults = run()
    assert done == "True"
    assert faults < PAGES / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
@pytest.mark.parametrize("environment", [{"HEADWAY_MALLOC": "system"}, {"MALLOC_MMAP_THRESHOLD_": "1048576"}])
def test_it_can_be_left_as_it_is(environment):
    """Then each block of 64 MiB has fresh pages, at least of 2 MiB."""
    done, faults = run(**environment)
    assert done == "False"
    assert faults >= 32


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()
