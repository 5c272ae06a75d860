"""The private names of torch that watching a program's operations needs, in one place.

No public names offer this: torch.overrides sees calls of Python functions, but not the operations that autograd and
torch's own C++ code call.
"""

from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["TorchDispatchMode", "no_dispatch", "tree_leaves", "tree_map"]
