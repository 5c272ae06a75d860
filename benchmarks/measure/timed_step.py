"""One training step, whole or in timed parts, by this project's code and by plain PyTorch.

To time parts, the autograd graph is cut between them and gradients are passed on. So forward and backward of a part are
timed together, and the result is that of the whole step.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.measure.plain import PlainBiLM, State
from data_prep.dataset.open import open_dataset
from pipeline.characters import PAD
from pipeline.config.schema import PretrainConfig
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary, choose_vocabulary
from pipeline.data.windows import Batch, BatchMaker, TrainWindows
from pipeline.model.bilm import DropoutKey, States, detach
from pipeline.model.language_model import LanguageModel
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates, Places, find_places
from pipeline.train.step.optimizer import build_optimizer, clip_global_norm_
from pipeline.train.step.parameter_kinds import parameter_kinds
from pipeline.train.step.softmax_gradient import SoftmaxGradient
from pipeline.train.trainer import keep_freed_memory

PARTS = ("data", "encoder", "recurrence", "softmax", "optimizer")


class Way(Protocol):
    """A way to compute a step. lengths, places: as in GroupInputs, if the CPU has computed them beforehand."""

    states: Any

    def encode(self, batch: Batch, lengths: Tensor | None = None) -> Tensor: ...
    def run_layers(self, x: Tensor, step: int, dropout: float) -> Tensor: ...
    def loss(self, y: Tensor, batch: Batch, candidates: Candidates, places: Places | None = None) -> Tensor: ...
    def update(self) -> None: ...


class Ours:
    """The step of pipeline.train.step.module, without Lightning."""

    def __init__(self, config: PretrainConfig, bilm: LanguageModel) -> None:
        keep_freed_memory()
        self.config, self.bilm = config, bilm
        self.optimizer = build_optimizer(config.optimizer, parameter_kinds(bilm))
        self.softmax_gradient = SoftmaxGradient(bilm.softmax)
        self.states: States = bilm.initial_states(config.data.lanes)
        self._report = torch.zeros(2)  # loss and request, as in the module
        self._check = torch.zeros(1, dtype=torch.int32, device=bilm.device)

    def encode(self, batch: Batch, lengths: Tensor | None = None) -> Tensor:
        words = self.bilm.encoder(batch.characters, lengths).to(self.states[0].h.dtype)
        return torch.nn.functional.embedding(batch.word_index, words)

    def run_layers(self, x: Tensor, step: int, dropout: float) -> Tensor:
        outputs, states = self.bilm.run_layers(x, self.states, DropoutKey(0, step, 0) if dropout else None)
        self.states = detach(states)
        return outputs[-1]

    def loss(self, y: Tensor, batch: Batch, candidates: Candidates, places: Places | None = None) -> Tensor:
        targets = batch.targets.flatten(1)
        rows = self.bilm.softmax.touched_rows(places or find_places(candidates.ids, targets))
        self.softmax_gradient.collect(rows, targets, self._check)
        loss = self.bilm.softmax.sampled_loss(y.flatten(1, 2), targets, candidates, rows).mean()
        self._report = torch.stack([loss.detach(), torch.zeros_like(loss.detach())])
        self.softmax_gradient.send_during_backward(self._report)
        return loss

    def update(self) -> None:
        self.softmax_gradient.receive(self._report)
        clip_global_norm_(list(self.bilm.parameters()), self.config.optimizer.clip_norm)
        self.bilm.softmax.pass_gradient_on()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Plain:
    """Plain PyTorch with torch's own clipping and Adagrad: AllenNLP's cells (clipped), or nn.LSTM."""

    def __init__(self, config: PretrainConfig, bilm: PlainBiLM, clipped: bool) -> None:
        self.config, self.bilm, self.clipped = config, bilm, clipped
        other = set((bilm.lstms if clipped else bilm.cells).parameters())
        self.parameters = [p for p in bilm.parameters() if p not in other]
        self.optimizer = torch.optim.Adagrad(
            self.parameters, float(config.optimizer.lr), initial_accumulator_value=config.optimizer.initial_accumulator
        )
        self.states: list[State | None] = [None] * len(bilm.cells)

    def encode(self, batch: Batch, lengths: Tensor | None = None) -> Tensor:
        return self.bilm.encode(batch.characters[batch.word_index])

    def run_layers(self, x: Tensor, step: int, dropout: float) -> Tensor:
        y, states = self.bilm.run_layers(x, self.states, self.clipped, dropout)
        self.states = [state and (state[0].detach(), state[1].detach()) for state in states]
        return y

    def loss(self, y: Tensor, batch: Batch, candidates: Candidates, places: Places | None = None) -> Tensor:
        targets = batch.targets.transpose(1, 2).flatten(1)  # lane by lane, in the order of the cell's outputs
        return self.bilm.loss(y.flatten(1, 2), targets, candidates)

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.clip_norm or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Text:
    """The windows of a config's dataset and their candidates. vocabulary: number of words, 0 for the config's."""

    def __init__(self, config: PretrainConfig, vocabulary: int = 0) -> None:
        dataset = open_dataset(config.data.path)
        split = dataset.splits["train"]
        self.vocabulary = vocabulary or choose_vocabulary(dataset, config.data)
        maker = BatchMaker(dataset.lexicon, Vocabulary(self.vocabulary), config.model.max_characters)
        lanes = TrainLanes(split.num_tokens, config.data.lanes, config.data.window)
        self.windows = TrainWindows(split, maker, lanes, config.run.seed)
        self._candidates = config.softmax.num_samples
        self._lexicon = dataset.lexicon

    def words(self) -> list[str]:
        """Return the words of the vocabulary, numbers in the place of those that the dataset lacks."""
        found = self._lexicon.words(0, self.vocabulary)
        return [*found, *map(str, range(len(found), self.vocabulary))]

    def network(self, config: PretrainConfig, device: torch.device) -> LanguageModel:
        """Return a new network for the vocabulary; its words share rows if the config says so."""
        with device:
            bilm = LanguageModel(config.model, self.vocabulary)
        if config.softmax.affixes:
            bilm.softmax.share_rows(self.words())
        return bilm.to(device)

    @cached_property
    def _sampler(self) -> LogUniformSampler:
        return LogUniformSampler(self.vocabulary, self._candidates)

    def draw(self, step: int) -> tuple[Batch, Candidates]:
        """Return the window and the candidates of a step."""
        batch = self.windows.batch(step, range(self.windows.lanes.num_lanes))
        ids, tries = self._sampler.draw(0, step)
        return batch, Candidates(torch.from_numpy(ids).unsqueeze(0), torch.tensor([tries]))


class Steps:
    """Run steps of a way over a text. step: number of the next one."""

    def __init__(self, config: PretrainConfig, text: Text, way: Way, in_bf16: bool = False) -> None:
        self.config, self.text, self.way, self._in_bf16 = config, text, way, in_bf16
        self.step = self.steps_done = self.steps_in_parts = self.words = self.characters = 0
        self.part_seconds = dict.fromkeys(PARTS, 0.0)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._in_bf16)

    def first_loss(self) -> float:
        """Return the loss of the first window without dropout. States are kept; only the softmax is updated."""
        batch, candidates = self.text.draw(0)
        states = self.way.states
        with torch.no_grad():
            y = self.way.run_layers(self.way.encode(batch), 0, 0.0)
        self.way.states = states
        loss = self.way.loss(y.requires_grad_(), batch, candidates)
        loss.backward()
        self.way.update()
        return loss.item()

    def __call__(self) -> float:
        """Run one step and return its loss."""
        batch, candidates = self.text.draw(self.step)
        with self._autocast():
            y = self.way.run_layers(self.way.encode(batch), self.step, self.config.model.dropout)
            loss = self.way.loss(y, batch, candidates)
        (loss * self.config.data.window).backward()
        with self._autocast():
            self.way.update()
        self._count(batch)
        return loss.item()

    def in_parts(self) -> float:
        """Run one step with each part timed; return its loss. Slightly slower: parts do not share memory."""
        with self._part("data"):
            batch, candidates = self.text.draw(self.step)
        with self._part("encoder"), self._autocast():
            encoded = self.way.encode(batch)
        x = encoded.detach().requires_grad_()
        with self._part("recurrence"), self._autocast():
            outputs = self.way.run_layers(x, self.step, self.config.model.dropout)
        y = outputs.detach().requires_grad_()
        with self._part("softmax"):
            with self._autocast():
                loss = self.way.loss(y, batch, candidates)
            (loss * self.config.data.window).backward()
        with self._part("recurrence"):
            outputs.backward(y.grad)
        with self._part("encoder"):
            encoded.backward(x.grad)
        with self._part("optimizer"), self._autocast():
            self.way.update()
        self.steps_in_parts += 1
        self._count(batch)
        return loss.item()

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.part_seconds[name] += time.perf_counter() - begun

    def _count(self, batch: Batch) -> None:
        self.step += 1
        self.steps_done += 1
        self.words += len(batch.characters)
        self.characters += int((batch.characters != PAD).sum())
