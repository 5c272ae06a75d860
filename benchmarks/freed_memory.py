"""Set what glibc does with memory that a step frees: keep it, as training on a CPU does, or PyTorch's default."""

import ctypes

from pipeline.train.trainer import keep_freed_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_MOST_MMAP_THRESHOLD = 32 << 20  # glibc raises the threshold up to this by itself when a larger block is freed
_DEFAULT_MMAP_MAX = 65536


def settle_freed_memory(is_kept: bool) -> None:
    """Make glibc keep freed memory for the next step, or return it to the system. Without glibc, do nothing."""
    libc = ctypes.CDLL(None)
    if is_kept:
        keep_freed_memory()
    elif hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MOST_MMAP_THRESHOLD)
        libc.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        libc.malloc_trim(0)
