"""A biLM with the softmax that predicts each direction's next word: what is trained, evaluated and scored with."""

from torch import Tensor

from pipeline.config.schema import ModelConfig
from pipeline.model.bilm import BiLM, States, Window
from pipeline.model.softmax import Softmax


class LanguageModel(BiLM):
    """A BiLM and one softmax for both directions, over `vocab_size` target words."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__(config)
        self.softmax = Softmax(vocab_size, config.projection_dim)

    def token_losses(self, window: Window, targets: Tensor, states: States) -> tuple[Tensor, States]:
        """Return the full-softmax loss in nats of every target (2, T, B), without dropout, and the next states."""
        outputs, states = self(window, states)
        losses = self.softmax.full_loss(outputs[-1].flatten(0, 2), targets.flatten())
        return losses.view_as(targets), states
