"""Settings of this process that libraries read when they are loaded; for commands, not for programs that import us."""

import os


def set_defaults_of_libraries() -> None:
    """Set what the environment leaves open. To be called before torch is imported.

    GOMP_SPINCOUNT: OpenMP threads wait by spinning: beside other work that makes a step several times as long. This
    bound costs nothing on a quiet machine, and 5000 is slower beside other work (docs/results.md, "Training speed").
    THP_MEM_ALLOC_ENABLE: large buffers in huge pages, where the kernel gives them on request: a step's 40 MiB of gates
    cost 2 ms, not 12.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
