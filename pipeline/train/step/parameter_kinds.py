"""The kinds of a model's parameters, for which the optimizer has a rule each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMP
from pipeline.model.token_encoder import Highway


@dataclass(frozen=True)
class ParameterKinds:
    """every: all parameters, in the model's order. The other lists hold some of them.

    softmax: table and bias. gates: LSTM matrices (2, in, 4 * out), the four gates side by side. highways: matrices of
    the highway layers, (filters, filters). matrices: other matrices of the network.
    """

    every: list[Tensor]
    softmax: list[Tensor] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)
    highways: list[Tensor] = field(default_factory=list)
    matrices: list[Tensor] = field(default_factory=list)

    def besides(self, *lists: Sequence[Tensor]) -> list[Tensor]:
        """Return the parameters that stand in none of the lists."""
        listed = {id(parameter) for parameters in lists for parameter in parameters}
        return [parameter for parameter in self.every if id(parameter) not in listed]


def parameter_kinds(bilm: LanguageModel) -> ParameterKinds:
    """Return the kinds of a model's parameters."""
    kinds = ParameterKinds(list(bilm.parameters()), list(bilm.softmax.parameters()))
    for module in bilm.modules():
        if isinstance(module, LSTMP):
            kinds.gates.extend((module.weight_input, module.weight_recurrent))
            kinds.matrices.append(module.weight_proj)
        elif isinstance(module, Highway):
            kinds.highways.extend((module.transform.weight, module.carry.weight))
    if bilm.encoder.projection is not None:
        kinds.matrices.append(bilm.encoder.projection.weight)
    return kinds
