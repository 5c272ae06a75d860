"""Measure what each optimisation of a training step is worth: one is switched off, all others stay on; time by part.

python -m benchmarks.ablation data.path=DATASET [configs/small.yaml ...] [key=value ...] [--lanes=32] [--rounds=5]
    [--vocabulary=100000] [--without=NAME,NAME] [--threads=N] [--output=FILE]

All variants train the same weights in turn, and all give the same loss (checked). In each round every variant runs two
steps, of which the second counts; the first round is a warm-up. Figures are medians in milliseconds.
benchmarks.step_overhead measures Lightning's part.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command import split_options, write_result, yaml_files
from benchmarks.timed_step import PARTS, Clock, Ours, Steps, Text
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.data.windows import Batch
from pipeline.model import token_encoder
from pipeline.model.backend import matmul as backend
from pipeline.model.backend.char_cnn import Groups, widest
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMP, LSTMPState
from pipeline.model.softmax import Candidates, Places, Rows, find_places
from pipeline.train.step.optimizer import clip_global_norm_

_CONFIGS = ("benchmarks/tiny.yaml", "configs/small.yaml")


def _encode_every_place(way: Ours, batch: Batch, lengths: Tensor | None = None) -> Tensor:
    words = batch.characters[batch.word_index.flatten()]
    return way.bilm.encoder(words).view(*batch.word_index.shape, -1)


def _all_windows(encoder: token_encoder.TokenEncoder, lengths: Tensor, characters: int) -> list[tuple[int, int]]:
    return [(len(lengths), characters)]


def _step_by_step(layer: LSTMP, x_dtbi: Tensor, state: LSTMPState) -> tuple[Tensor, LSTMPState]:
    """Run both directions at once, as ours, with autograd's backward: no matrix product covers all steps there."""
    (h, c), outputs = state, []
    bias = layer.bias.unsqueeze(1)
    for x in x_dtbi.unbind(1):
        gates = torch.bmm(x, layer.weight_input) + torch.bmm(h, layer.weight_recurrent) + bias
        i, j, f, o = gates.chunk(4, 2)
        c = torch.sigmoid(i) * torch.tanh(j) + torch.sigmoid(f + 1) * c
        c = torch.clamp(c, -layer.cell_clip, layer.cell_clip)
        h = torch.bmm(torch.sigmoid(o) * torch.tanh(c), layer.weight_proj)
        h = torch.clamp(h, -layer.proj_clip, layer.proj_clip)
        outputs.append(h)
    return torch.stack(outputs, 1), LSTMPState(h, c)


def _by_convolution(words: Tensor, groups: Groups, embed: Tensor, convolutions: list[nn.Conv1d]) -> Tensor:
    width, start, peaks = widest(convolutions), 0, []
    for number, windows in groups:
        if number:
            x = F.embedding(words[start : start + number, : windows + width - 1].long(), embed).transpose(1, 2)
            peaks.append(torch.cat([convolution(x).amax(-1) for convolution in convolutions], dim=-1))
        start += number
    return torch.cat(peaks)


def _dense_loss(way: Ours, y: Tensor, batch: Batch, candidates: Candidates, places: Places | None = None) -> Tensor:
    softmax, targets = way.bilm.softmax, batch.targets.flatten(1)
    hits = find_places(candidates.ids, targets).hits
    places = Places(torch.arange(softmax.vocab_size), candidates.ids, targets, hits)
    rows = Rows(places, softmax.weight, softmax.bias)
    return softmax.sampled_loss(y.flatten(1, 2), targets, candidates, rows).mean()


def _dense_update(way: Ours) -> None:
    clip_global_norm_(list(way.bilm.parameters()), way.config.optimizer.clip_norm)
    way.optimizer.step()
    way.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _dense_table() -> Iterator[None]:
    with mock.patch.object(Ours, "loss", _dense_loss), mock.patch.object(Ours, "update", _dense_update):
        yield


ALL = "nothing"
WITHOUT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    ALL: nullcontext,
    "unique words": lambda: mock.patch.object(Ours, "encode", _encode_every_place),
    "tables of characters": lambda: mock.patch.object(token_encoder, "convolve_by_tables", _by_convolution),
    "cropped characters": lambda: mock.patch.object(token_encoder.TokenEncoder, "_groups", _all_windows),
    "hand-written backward": lambda: mock.patch.object(LSTMP, "forward", _step_by_step),
    "products by oneDNN": lambda: mock.patch.object(backend, "_ONEDNN", False),
    "touched rows": _dense_table,
}


def measure(config: PretrainConfig, vocabulary: int, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of a step by part without each optimisation, and the ratio of the whole step's time."""
    torch.manual_seed(0)
    text = Text(config, vocabulary)
    steps = Steps(config, text, Ours(config, LanguageModel(config.model, text.vocabulary)))
    _check_equal(steps, names)
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            with WITHOUT[name]():
                steps.in_parts()  # not counted: sets memory and caches to the state of this variant
                steps.clock = Clock()
                steps.in_parts()
            if turn:
                spent[name].append(dict(steps.clock.wall))
    rows = {
        name: {part: 1e3 * statistics.median(one[part] for one in found) for part in PARTS}
        | {"step": 1e3 * statistics.median(sum(one.values()) for one in found)}
        for name, found in spent.items()
    }
    return {name: row | {"times": row["step"] / rows[ALL]["step"]} for name, row in rows.items()}


def _check_equal(steps: Steps, names: list[str]) -> None:
    """Check that a window has the same loss in every variant. No weights are updated."""
    batch, candidates = steps.text.draw(0)
    way, losses = steps.way, {}
    assert isinstance(way, Ours)
    states = way.states
    for name in names:
        with WITHOUT[name]():
            with torch.no_grad():
                y = way.run_layers(way.encode(batch), 0, 0.0)
            loss = way.loss(y.requires_grad_(), batch, candidates)
            loss.backward()
        way.softmax_gradient.receive(way._report)
        way.optimizer.zero_grad(set_to_none=True)
        way.states, losses[name] = states, loss.item()
    assert max(losses.values()) - min(losses.values()) < 1e-3, f"the ways differ: {losses}"


def main(arguments: list[str]) -> None:
    """Print the tables and, with --output, write the figures as JSON."""
    options, rest = split_options(arguments, lanes=32, rounds=5, vocabulary=100_000, without="")
    files, pairs = yaml_files(rest, *_CONFIGS)
    names = [ALL, *(options["without"].split(",") if options["without"] else list(WITHOUT)[1:])]
    if unknown := sorted(set(names) - set(WITHOUT)):
        raise SystemExit(f"--without={','.join(unknown)} is unknown; there are {', '.join(list(WITHOUT)[1:])}")
    results = {}
    for file in files:
        config = load(PretrainConfig, [file, *pairs, f"data.lanes={options['lanes']}"])
        result = results[Path(file).stem] = measure(config, options["vocabulary"], names, options["rounds"])
        print(f"{Path(file).stem + ', without':28}" + "".join(f"{part:>12}" for part in (*PARTS, "step")) + f"{'x':>7}")
        for name, row in result.items():
            parts = "".join(f"{row[part]:12,.1f}" for part in (*PARTS, "step"))
            print(f"{name:28}{parts}{row['times']:7.2f}", flush=True)
    write_result(options["output"], results)


if __name__ == "__main__":
    main(sys.argv[1:])
