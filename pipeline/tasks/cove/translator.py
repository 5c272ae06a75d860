"""The translation model: encoder, and a decoder with attention, as a network that tasks' training can train.

Source: salesforce/cove, OpenNMT-py/onmt/Models.py:79-125 and modules/GlobalAttention.py:27-62. There, several dropouts
follow one another on the same value (on the fed output, on embeddings); here each value is dropped once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.cove import CoveNetworkConfig
from pipeline.config.task_networks import ElmoConfig
from pipeline.tasks.cove.encoder import State, TranslationEncoder
from pipeline.tasks.cove.parallel_text import Translation
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.attention import masked_softmax
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import PADDING, UNKNOWN, Batch, Tables, padded

BEGIN, END = UNKNOWN + 1, UNKNOWN + 2  # of a target sentence; its words follow
_STEPS_AT_ONCE = 8  # steps of a batch whose softmax is held in memory, outside training
LogProbability = tuple[float, int]  # of a target sentence with its END, and how many words that are


@dataclass(frozen=True)
class TranslationBatch(Batch):
    """previous, target (B, U): the target's words, and before each the word that precedes it. target_mask (B, U)."""

    previous: Tensor
    target: Tensor
    target_mask: Tensor


class GlobalAttention(nn.Module):
    """tanh(W_out [H a; h]) with a = softmax(h' W_in H), over the outputs H of the encoder (Luong et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(2 * width, width, bias=False)

    def keys(self, context_bth: Tensor) -> Tensor:
        """Return H' W_in, which is the same at each step."""
        return context_bth @ self.input.weight

    def forward(self, h_bh: Tensor, keys_bth: Tensor, context_bth: Tensor, mask: Tensor) -> Tensor:
        share = masked_softmax((keys_bth @ h_bh[..., None])[..., 0], mask)
        attended = (share[:, None] @ context_bth)[:, 0]
        return torch.tanh(self.output(torch.cat([attended, h_bh], -1)))


class Decoder(nn.Module):
    """Predict each target word of the words before it, and of the source by attention (input feeding)."""

    def __init__(self, config: CoveNetworkConfig, num_words: int) -> None:
        super().__init__()
        width = 2 * config.hidden
        self.embedding = nn.Embedding(num_words, config.target_dim, padding_idx=PADDING)
        dims = [config.target_dim + width, *[width] * (config.num_layers - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(dim, width) for dim in dims)
        self.attention = GlobalAttention(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, previous: Tensor, context_bth: Tensor, mask: Tensor, states: list[State]) -> Tensor:
        """Return (B, U, 2 hidden), what the softmax reads. states: of the encoder's layers, where the cells start."""
        states, outputs = list(states), []
        keys, output = self.attention.keys(context_bth), torch.zeros_like(context_bth[:, 0])
        for x_bd in self.dropout(self.embedding(previous)).unbind(1):
            x_bd = torch.cat([x_bd, output], -1)
            for number, cell in enumerate(self.cells):
                states[number] = cell(self.dropout(x_bd) if number else x_bd, states[number])
                x_bd = states[number][0]
            output = self.dropout(self.attention(x_bd, keys, context_bth, mask))
            outputs.append(output)
        return torch.stack(outputs, 1)


class Translator(TaskNetwork[Translation, TranslationBatch, LogProbability]):
    """The whole model. Its predictions are log-probabilities of the given translations: perplexity needs no more.

    labels: the target words that can be predicted.
    """

    config: CoveNetworkConfig

    def __init__(self, config: CoveNetworkConfig, embedder: Embedder, labels: tuple[str, ...]) -> None:
        super().__init__(config, embedder, ElmoPlacement(ElmoConfig("none")), labels)
        self.encoder = TranslationEncoder(self.input_dim, config.hidden, config.num_layers, config.dropout)
        num_words = len(labels) + END + 1
        self.decoder = Decoder(config, num_words)
        self.softmax = nn.Linear(2 * config.hidden, num_words)
        for weight in self.parameters():
            nn.init.uniform_(weight, -config.init_range, config.init_range)

    @staticmethod
    def labels_of(examples: Sequence[Translation]) -> tuple[str, ...]:
        """Return all target words, the most frequent first."""
        counts: dict[str, int] = {}
        for pair in examples:
            for word in pair.target:
                counts[word] = counts.get(word, 0) + 1
        return tuple(sorted(counts, key=lambda word: (-counts[word], word)))

    @staticmethod
    def make_batch(examples: Sequence[Translation], tables: Tables) -> TranslationBatch:
        rows = tables.label_rows
        targets = [[END + 1 + rows[w] if w in rows else UNKNOWN for w in pair.target] for pair in examples]
        width = max(map(len, targets)) + 1
        previous, target = (
            padded(ids, width) for ids in ([[BEGIN, *t] for t in targets], [[*t, END] for t in targets])
        )
        sequences = (tables.sequences([pair.source for pair in examples]),)
        return TranslationBatch(sequences, previous, target, target != PADDING)

    def loss(self, batch: TranslationBatch) -> Tensor:
        """Return the negative log-probability of a sentence, the mean over the batch, as OpenNMT-py does."""
        outputs_nh = self._decode(batch)[batch.target_mask]
        losses = nn.functional.cross_entropy(self.softmax(outputs_nh), batch.target[batch.target_mask], reduction="sum")
        return losses / len(batch.target)

    @torch.no_grad()
    def predict(self, batch: TranslationBatch) -> list[LogProbability]:
        outputs_buh = self._decode(batch)
        total = outputs_buh.new_zeros(len(batch.target), dtype=torch.float64)
        for steps in torch.arange(batch.target.shape[1], device=batch.target.device).split(_STEPS_AT_ONCE):
            logits = self.softmax(outputs_buh[:, steps]).transpose(1, 2)
            losses = nn.functional.cross_entropy(logits, batch.target[:, steps], reduction="none")
            total -= (losses * batch.target_mask[:, steps]).sum(1)
        return list(zip(total.tolist(), batch.target_mask.sum(1).tolist(), strict=True))

    def _decode(self, batch: TranslationBatch) -> Tensor:
        (source,) = batch.sequences
        outputs, states = self.encoder(self.embed(source), source.lengths)
        context_bth = self.decoder.dropout(outputs[-1])
        decoded: Tensor = self.decoder(batch.previous, context_bth, source.mask, states)
        return decoded
