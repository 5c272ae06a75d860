"""Whole training steps against plain autograd: dense sampled softmax, torch's clip, a written-out Adagrad."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_prep.dataset.open import open_dataset
from pipeline.config.schema import PretrainConfig
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary, choose_vocabulary
from pipeline.data.windows import Batch, BatchMaker, TrainWindows
from pipeline.model.bilm import DropoutKey, States, Window
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMPState
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates
from tests.model import plain_torch
from tests.train import runs

STEPS = 3


def batches(dataset: Path, config: PretrainConfig) -> tuple[int, list[Batch]]:
    data = open_dataset(str(dataset))
    size = choose_vocabulary(data, config.data)
    maker = BatchMaker(data.lexicon, Vocabulary(size), config.model.max_characters)
    lanes = TrainLanes(data.splits["train"].num_tokens, config.data.lanes, config.data.window)
    windows = TrainWindows(data.splits["train"], maker, lanes, config.run.seed)
    return size, [windows.batch(step, range(config.data.lanes)) for step in range(STEPS)]


def candidates_of(config: PretrainConfig, vocab_size: int, step: int) -> Candidates:
    """As the module draws them: from (seed, site 1, step, set)."""
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
    if config.softmax.kind == "full":
        logits = y @ table.weight.T + table.bias
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    else:
        candidates = candidates_of(config, table.vocab_size, batch.step)
        losses = plain_torch.sampled_loss(y, targets, candidates, table.weight, table.bias)
    return losses.mean(), [LSTMPState(s.h.detach(), s.c.detach()) for s in states]


def reference(dataset: Path, config: PretrainConfig) -> tuple[LanguageModel, list[float], list[float]]:
    """The model after three steps of the recipe as the paper's code has it, its losses and gradient norms."""
    vocab_size, windows = batches(dataset, config)
    torch.manual_seed(config.run.seed)
    model = LanguageModel(config.model, vocab_size)
    accumulators = [torch.ones_like(p) for p in model.parameters()]
    states, losses, norms = model.initial_states(config.data.lanes), [], []
    for batch in windows:
        loss, states = loss_of(model, config, batch, states)
        model.zero_grad()
        (loss * config.data.window).backward()
        bound = config.optimizer.clip_norm
        assert bound is not None
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), bound)))
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, accumulator in zip(model.parameters(), accumulators, strict=True):
                assert parameter.grad is not None
                accumulator += parameter.grad**2
                parameter -= config.optimizer.lr * parameter.grad / accumulator.sqrt()
    return model, losses, norms


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["optimizer.clip_norm=0.5", "model.dropout=0.3"],
        ["softmax.candidates=per_direction"],
        ["softmax.kind=full"],
        ["train.lanes_at_once=2"],
        ["train.lanes_at_once=4", "softmax.kind=full"],
    ],
    ids=lambda changes: " ".join(changes) or "default",
)
def test_three_steps_give_the_weights_of_plain_autograd(dataset: Path, tmp_path: Path, changes: list[str]) -> None:
    settings = [*changes, f"train.max_steps={STEPS}", f"train.validate_every_steps={STEPS}"]
    runs.train_here(dataset, tmp_path / "run", *settings)
    model, losses, norms = reference(dataset, runs.config_of(dataset, tmp_path, *settings))
    trained = runs.newest(tmp_path / "run")["state_dict"]
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    curve = runs.curve(tmp_path / "run")
    assert [curve[step + 1]["train/loss"] for step in range(STEPS)] == pytest.approx(losses, rel=1e-6)
    assert [curve[step + 1]["train/gradient_norm"] for step in range(STEPS)] == pytest.approx(norms, rel=1e-5)


def test_the_clip_of_that_comparison_bites(dataset: Path, tmp_path: Path) -> None:
    config = runs.config_of(dataset, tmp_path, "optimizer.clip_norm=0.5", "model.dropout=0.3")
    assert min(reference(dataset, config)[2]) > 1.0
