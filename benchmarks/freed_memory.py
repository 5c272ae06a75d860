"""What glibc does with memory that a step frees: as training on a CPU has it, or as any program of PyTorch has."""

import ctypes

from pipeline.train.trainer import keep_freed_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_MOST_MMAP_THRESHOLD = 32 << 20  # to which glibc raises it by itself, as soon as a larger block was freed
_DEFAULT_MMAP_MAX = 65536


def settle_freed_memory(is_kept: bool) -> None:
    """From now on it is kept for the next step, or else given back. Without glibc nothing happens."""
    libc = ctypes.CDLL(None)
    if is_kept:
        keep_freed_memory()
    elif hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MOST_MMAP_THRESHOLD)
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.malloc_trim(0)
