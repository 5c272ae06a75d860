"""ELMo's layers as AllenNLP computes them.

python -m benchmarks.measure.plain_elmo TASK key=value ...: `elmo task` with these, computed in every batch.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.measure.plain import PlainCell, plain_encode
from pipeline import cli
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.sentence_batch import BOS, EOS, spell_sentences
from pipeline.tasks.layer_encoder import BilmEncoder

_BATCH = 64  # AllenNLP's ElmoEmbedder


class PlainElmo:
    """Compute the layers of sentences as AllenNLP does, with the weights of a BiLM.

    Batches of 64 in text order, padded to the longest sentence; all characters of every position encoded; cells run one
    direction, layer and step at a time, with rows sorted by length so that ended rows can be left out.
    """

    def __init__(self, bilm: BiLM) -> None:
        self.bilm = bilm
        self.cells = [[PlainCell(layer, d) for d in range(2)] for layer in bilm.layers]  # type: ignore[arg-type]

    def __call__(self, sentences: list[list[str]]) -> list[Tensor]:
        """Return (L + 1, n, 2 P) for each sentence."""
        batches = [sentences[start : start + _BATCH] for start in range(0, len(sentences), _BATCH)]
        return [layers for batch in batches for layers in self._batch(batch)]

    def _batch(self, sentences: list[list[str]]) -> list[Tensor]:
        order = sorted(range(len(sentences)), key=lambda n: -len(sentences[n]))
        lengths = [len(sentences[n]) + 2 for n in order]
        spelled = spell_sentences([sentences[n] for n in order], self.bilm.config.max_characters)
        index = torch.zeros(len(order), lengths[0], dtype=torch.int64)
        for row, ids in enumerate(spelled.ids):
            index[row, : len(ids) + 2] = torch.tensor([BOS, *ids.tolist(), EOS])
        characters = torch.from_numpy(spelled.characters)[index.flatten()]  # every position, padding included
        x = plain_encode(self.bilm.encoder, characters).unflatten(0, index.shape)
        layers, streams = [torch.cat([x, x], -1)], [x, x]
        for depth, cells in enumerate(self.cells):
            outputs = [cells[d](streams[d], lengths, backward=d == 1)[0] for d in range(2)]
            residual = depth > 0 and self.bilm.config.skip_connections
            streams = [y + x if residual else y for x, y in zip(streams, outputs, strict=True)]
            layers.append(torch.cat(streams, -1))
        stacked = torch.stack(layers)
        by_number = {n: stacked[:, row, 1 : lengths[row] - 1] for row, n in enumerate(order)}
        return [by_number[n] for n in range(len(sentences))]


def padded_layers(encoder: BilmEncoder, texts: Sequence[Sequence[str]]) -> Tensor:
    """Return (layers, B, T, width), zeros after a text's end, as `BilmEncoder.forward` does."""
    with torch.no_grad():
        layers = PlainElmo(encoder.elmo.bilm)([list(text) for text in texts])
    padded = torch.nn.utils.rnn.pad_sequence([each.transpose(0, 1) for each in layers], batch_first=True)
    return padded.permute(2, 0, 1, 3)


if __name__ == "__main__":
    BilmEncoder.forward = padded_layers  # type: ignore[method-assign, assignment]
    sys.exit(cli.main(["task", *sys.argv[1:], "elmo.keep=no"]))
