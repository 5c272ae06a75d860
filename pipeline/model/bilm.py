"""ELMo's biLM: one token encoder and LSTMP layers of both directions. Its softmax: language_model.py.

Source: Peters et al. 2018, section 3.1 and 3.4; bilm-tf training.py:36-560.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.schema import ModelConfig
from pipeline.model.dictionary_encoder import make_encoder
from pipeline.model.dropout import lane_dropout, mix32
from pipeline.model.lstmp import LSTMP, LSTMPState

States = list[LSTMPState]


class DropoutKey(NamedTuple):
    """Key of a window's dropout masks. first_lane: the lane of the batch's first row."""

    seed: int
    step: int
    first_lane: int


class Window(NamedTuple):
    """Input of the model. Directions: 0 forward, 1 backward, each in its own reading order.

    characters (U, C): spellings of the window's unique words. word_index (2, T, B): the unique word at each place.
    lengths (U,): characters of each word, on the CPU, or None: see TokenEncoder.forward.
    """

    characters: Tensor
    word_index: Tensor
    lengths: Tensor | None = None


class BiLM(nn.Module):
    """The token encoder and the LSTM layers: all that embedding needs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(config)
        self.layers = nn.ModuleList(
            LSTMP(config.projection_dim, config.lstm_dim, config.projection_dim, config.cell_clip, config.proj_clip)
            for _ in range(config.num_layers)
        )

    @property
    def device(self) -> torch.device:
        return self.encoder.char_embed.device

    def initial_states(self, num_lanes: int) -> States:
        return [layer.initial_state(num_lanes) for layer in self.layers]  # type: ignore[operator]

    def forward(self, window: Window, states: States, dropout: DropoutKey | None = None) -> tuple[list[Tensor], States]:
        """Return the token layer and every LSTM layer's output, each (2, T, B, P), and the next states.

        dropout: given in training only. It applies to the input of every layer (the residual adds the dropped input)
        and to the top output, the last of the list (training.py:389-391, 421-424).
        """
        # Cast to the state's dtype: a sum in bf16 of the gradients of one word's places would stop growing at 256.
        x = F.embedding(window.word_index, self.encoder(window.characters, window.lengths).to(states[0].h.dtype))
        return self.run_layers(x, states, dropout)

    def run_layers(self, x: Tensor, states: States, dropout: DropoutKey | None = None) -> tuple[list[Tensor], States]:
        """Run the LSTM layers on token vectors x (2, T, B, P); return what `forward` returns."""
        outputs, next_states = [x], []
        for depth, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            x = self._drop(x, depth, dropout)
            y, next_state = layer(x, state)
            x = y + x if depth and self.config.skip_connections else y
            outputs.append(x)
            next_states.append(next_state)
        outputs[-1] = self._drop(x, len(self.layers), dropout)
        return outputs, next_states

    def _drop(self, x: Tensor, site: int, dropout: DropoutKey | None) -> Tensor:
        if dropout is None or self.config.dropout == 0:
            return x
        return lane_dropout(x, self.config.dropout, mix32(dropout.seed, dropout.step, site), dropout.first_lane)

    def core(self) -> "BiLM":
        """Return a BiLM of the same encoder and layers: a LanguageModel without its softmax. Weights are shared."""
        with torch.device("meta"):
            core = BiLM(self.config)
        core.encoder, core.layers = self.encoder, self.layers
        return core.train(self.training)


def num_parameters(bilm: BiLM) -> dict[str, int]:
    """Return the number of parameters of the biLM (the paper's count) and of its softmax, 0 without one.

    Rows that words share in a training are not counted: they are no part of the trained table.
    """
    sizes = {name: parameter.numel() for name, parameter in bilm.named_parameters() if ".affixes." not in name}
    softmax = sum(size for name, size in sizes.items() if name.startswith("softmax."))
    return {"bilm": sum(sizes.values()) - softmax, "softmax": softmax}


def num_layer_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of the LSTM layers of both directions."""
    with torch.device("meta"):
        return sum(p.numel() for p in BiLM(config).layers.parameters())


def detach(states: States) -> States:
    return [state.detach() for state in states]
