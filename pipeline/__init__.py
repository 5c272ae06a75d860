"""Pretrain, evaluate and use ELMo's bidirectional language model (Peters et al., 2018)."""

import os

# OpenMP threads wait by spinning; beside other work that costs a step 10 to 30 times its time, measured. It is read when
# torch is loaded, so it is set before. On a quiet machine this bound costs nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__version__ = "0.1.0"
