"""The memory and the cores of this process. Nothing here imports torch."""

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
