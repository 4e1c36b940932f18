"""One rule for every tensor operation: how the spans of its results follow from those of its operands.

The operations are those of ATen, to which PyTorch reduces whatever a network calls. A rule ties dimensions that
must lose the same channels, and says which weights read channels and which compute them. An operation without
a rule keeps all channels that it touches.
"""

from lomt.structure.operations.call import Call, arguments_by_name, tensors_in
from lomt.structure.operations.table import RULES, follow

__all__ = ["RULES", "Call", "arguments_by_name", "follow", "tensors_in"]
