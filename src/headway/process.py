"""The memory and the cores of this process and its machine. Nothing here imports torch."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def peak_of_process() -> int:
    """Bytes, the most at any time; 0 where the system does not say (Windows)."""
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    return int(peak if sys.platform == "darwin" else peak * 1024)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can be had without swapping, of the machine or of a container's limit (cgroups v2); 0 where the system
    does not say."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        with suppress(OSError, ValueError, KeyError):  # "max" where there is no limit; without cgroups v2 no file
            group = Path("/sys/fs/cgroup")
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            cache = int(stat["inactive_file"]) + int(stat["active_file"])  # given up where memory is needed
            used = int((group / "memory.current").read_text()) - cache
            free = min(free, max(int((group / "memory.max").read_text()) - used, 1))
        return free
    return 0
