"""glibc's allocator set for networks: freed memory stays with the process, and is used again as it is.

By default glibc hands every block above a threshold (at most 32 MiB) back to the system when it is freed. The next
layer then gets fresh pages, and the system fills each with zeros first. `keep_memory` raises both thresholds of
mallopt(3). Nothing here imports torch.
"""

import ctypes
import os
import platform
import sys

OFF = "HEADWAY_MALLOC"  # "system" leaves the allocator as it is
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 2**30  # bytes: blocks up to this come from the heap, and so much free memory stays at its end
_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_memory() -> bool:
    """Raise the thresholds of glibc on Linux. Returns whether it was done.

    Not done on another system, with another allocator (musl, jemalloc by LD_PRELOAD), where the environment sets the
    allocator already, or with HEADWAY_MALLOC=system.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    if os.environ.get(OFF) == "system" or any(os.environ.get(name) for name in _OWN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all(mallopt(name, _KEPT) for name in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
