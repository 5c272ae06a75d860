"""What torch has only under private names for watching the operations of a program, in one place.

No public name leads to them: torch.overrides sees the calls of Python functions, not the operations that autograd and
torch's own C++ call.
"""

from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["TorchDispatchMode", "no_dispatch", "tree_leaves", "tree_map"]
