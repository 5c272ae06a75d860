"""Memory that a step frees is kept for the next one, which asks for the same again."""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_NEVER = -1


def keep_freed_memory() -> None:
    """For training on a CPU, with glibc; elsewhere nothing happens.

    glibc maps each block of more than 32 MiB anew and unmaps it when it is freed, whatever its thresholds say. A step
    frees hundreds of MiB so, and each page of them costs a fault when the next step touches it: a quarter of the time
    of a step of the original model on a virtual machine.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)
