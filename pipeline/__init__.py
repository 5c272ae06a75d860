"""Pretrain, evaluate and use ELMo's bidirectional language model (Peters et al., 2018)."""

import os

# OpenMP threads wait by spinning: beside other work that makes a step 10 times as long and more, measured. Read when
# torch is loaded, hence set here. On a quiet machine the bound costs nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
# Large buffers in huge pages, where the kernel gives them on request: a step's 40 MiB of gates cost 2 ms, not 12.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
