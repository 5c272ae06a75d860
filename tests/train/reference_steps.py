"""The first steps of a training run by plain autograd: dense sampled softmax, torch's clipping, and Adagrad in full."""

from pathlib import Path

import torch
from torch import Tensor

from data_prep.dataset.open import open_dataset
from pipeline.config.schema import PretrainConfig
from pipeline.data.lanes import TrainLanes, cold_starts
from pipeline.data.vocabulary import Vocabulary, choose_vocabulary
from pipeline.data.windows import Batch, BatchMaker, TrainWindows
from pipeline.model.bilm import DropoutKey, States, Window
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMPState
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates
from tests.model import plain_torch

STEPS = 3
_SHARED = "softmax.affixes.weight"  # clipped by the norm of the others


def batches(dataset: Path, config: PretrainConfig) -> tuple[int, list[Batch]]:
    data = open_dataset(str(dataset))
    size = choose_vocabulary(data, config.data)
    maker = BatchMaker(data.lexicon, Vocabulary(size), config.model.max_characters)
    lanes = TrainLanes(data.splits["train"].num_tokens, config.data.lanes, config.data.window)
    windows = TrainWindows(data.splits["train"], maker, lanes, config.run.seed)
    return size, [windows.batch(step, range(config.data.lanes)) for step in range(STEPS)]


def candidates_of(config: PretrainConfig, vocab_size: int, step: int) -> Candidates:
    """Draw the candidates of a step as the module does, from (seed, site 1, step, set)."""
    sampler = LogUniformSampler(vocab_size, config.softmax.num_samples)
    sets = 1 if config.softmax.candidates == "shared" else 2
    draws = [sampler.draw(config.run.seed, 1, step, number) for number in range(sets)]
    ids = torch.stack([torch.from_numpy(words) for words, _ in draws])
    return Candidates(ids, torch.tensor([tries for _, tries in draws]))


def loss_of(model: LanguageModel, config: PretrainConfig, batch: Batch, states: States) -> tuple[Tensor, States]:
    window = Window(batch.characters, batch.word_index)
    key = DropoutKey(config.run.seed, batch.step, batch.first_lane)
    outputs, states = plain_torch.bilm(model, window, states, key)
    y, targets = outputs[-1].flatten(1, 2), batch.targets.flatten(1)
    table = model.softmax
    weight = table.weight
    if table.affixes is not None:
        there = (table.affixes.features > 0).to(weight.dtype)
        rows = table.affixes.weight[table.affixes.features.long()] * there.unsqueeze(-1)
        weight = weight + rows.sum(1) / there.sum(1, keepdim=True).clamp(min=1).sqrt()
    if config.softmax.kind == "full":
        logits = y @ weight.T + table.bias
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    else:
        candidates = candidates_of(config, table.vocab_size, batch.step)
        losses = plain_torch.sampled_loss(y, targets, candidates, weight, table.bias)
    return losses.mean(), [LSTMPState(s.h.detach(), s.c.detach()) for s in states]


def reference(dataset: Path, config: PretrainConfig) -> tuple[LanguageModel, list[float], list[float]]:
    """Train three steps of the recipe as in the paper's code; return the model, the losses and the gradient norms."""
    vocab_size, windows = batches(dataset, config)
    torch.manual_seed(config.run.seed)
    model = LanguageModel(config.model, vocab_size)
    if config.softmax.affixes:
        model.softmax.share_rows(open_dataset(str(dataset)).lexicon.words(0, vocab_size))
    accumulators = [torch.ones_like(p) for p in model.parameters()]
    states, losses, norms = model.initial_states(config.data.lanes), [], []
    for batch in windows:
        is_cold = cold_starts(config.run.seed, batch.step, range(config.data.lanes), config.data.cold_start_share)
        warm = torch.from_numpy(~(is_cold | batch.resets_state)).float().unsqueeze(1)
        states = [LSTMPState(s.h * warm, s.c * warm) for s in states]
        loss, states = loss_of(model, config, batch, states)
        model.zero_grad()
        (loss * config.data.window).backward()
        bound = config.optimizer.clip_norm
        assert bound is not None
        measured = [p.grad for n, p in model.named_parameters() if n != _SHARED and p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(measured)))
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), bound, torch.tensor(norms[-1]))
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, accumulator in zip(model.parameters(), accumulators, strict=True):
                assert parameter.grad is not None
                accumulator += parameter.grad**2
                parameter -= float(config.optimizer.lr) * parameter.grad / accumulator.sqrt()
    return model, losses, norms
