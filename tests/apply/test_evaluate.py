"""`elmo evaluate`: one number for a given number of lanes, every token once, and the figures beside it."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch

from data_prep.dataset.open import open_dataset
from pipeline.apply.evaluate import Evaluation, evaluate
from pipeline.apply.load import load_trained
from pipeline.characters import BEGIN_SENTENCE, END_SENTENCE, spell
from pipeline.config.commands import EvaluateCommandConfig
from pipeline.config.load import load
from pipeline.config.schema import ConfigError
from pipeline.model.bilm import States, Window
from pipeline.train.run_dir.tracking import read_metrics
from tests import corpora, processes
from tests.train import runs


def score(checkpoint: Path, data: Path, *pairs: str) -> Evaluation:
    arguments = [f"checkpoint={checkpoint}", f"data={data}", "accelerator=cpu", *pairs]
    result = evaluate(load(EvaluateCommandConfig, arguments))
    assert result is not None
    return result


def text_of(dataset: Path, name: str) -> list[list[str]]:
    return [line.split() for line in (dataset.parent / f"{name}.txt").read_text(encoding="utf-8").splitlines()]


def read_in_order(run_dir: Path, sentences: list[list[str]]) -> tuple[float, float, int]:
    """Read the text word by word in one pass; return perplexity forward and backward, and the number of tokens."""
    trained = load_trained(str(run_dir))
    ids, width = {word: number for number, word in enumerate(trained.words)}, trained.config.model.max_characters
    perplexities, count = [], 0
    for d, (first, last) in enumerate((("<S>", "</S>"), ("</S>", "<S>"))):
        stream = [w for s in sentences for w in [first, *(s if d == 0 else s[::-1])]]
        targets = [w for s in sentences for w in [*(s if d == 0 else s[::-1]), last]]
        states, nats = trained.bilm.initial_states(1), 0.0
        for word, target in zip(stream, targets, strict=True):
            loss, states = one_word(trained.bilm, d, word, ids.get(target, 2), states, width)
            nats += loss
        perplexities.append(math.exp(nats / len(targets)))
        count = len(targets)
    return perplexities[0], perplexities[1], count


@torch.no_grad()
def one_word(bilm, d: int, word: str, target: int, states: States, width: int) -> tuple[float, States]:  # type: ignore[no-untyped-def]
    row = torch.from_numpy(spell(word, width))[None].clone()
    if word in ("<S>", "</S>"):
        row[0, :4] = torch.tensor([258, BEGIN_SENTENCE if word == "<S>" else END_SENTENCE, 259, 260])
        row[0, 4:] = 260
    losses, states = bilm.token_losses(
        Window(row, torch.zeros(2, 1, 1, dtype=torch.int64)), torch.full((2, 1, 1), target), states
    )
    return float(losses[d, 0, 0]), states


def test_one_lane_scores_the_words_strictly_in_reading_order(dataset: Path, trained: Path) -> None:
    sentences = text_of(dataset, "heldout")[:25]
    text = corpora.write_text(trained.parent / "strict.txt", [" ".join(s) for s in sentences])
    forward, backward, tokens = read_in_order(trained, sentences)
    result = score(trained, text, "evaluate.lanes=1", "evaluate.window=7")
    assert result.perplexity.tokens == tokens
    assert result.perplexity.forward == pytest.approx(forward, rel=1e-5)
    assert result.perplexity.backward == pytest.approx(backward, rel=1e-5)
    assert result.perplexity.both == pytest.approx(math.sqrt(forward * backward), rel=1e-5)


@pytest.mark.parametrize("lanes", [1, 7, 32, 100_000])
def test_the_number_depends_only_on_the_lanes(dataset: Path, trained: Path, lanes: int) -> None:
    tokens = open_dataset(str(dataset)).splits["heldout"].num_tokens
    base = score(trained, dataset, f"evaluate.lanes={lanes}")
    assert base.perplexity.tokens == tokens and base.perplexity.lanes == min(lanes, tokens)
    for at_once, window in ((1, 64), (3, 5), (100, 1), (5, 2000)):
        if lanes > 1000 and at_once < 100:
            continue  # hundreds of lanes of one word each, computed one after another
        other = score(
            trained,
            dataset,
            f"evaluate.lanes={lanes}",
            f"evaluate.lanes_at_once={at_once}",
            f"evaluate.window={window}",
        )
        assert other.perplexity.tokens == tokens
        for name in ("both", "forward", "backward"):
            assert getattr(other.perplexity, name) == pytest.approx(getattr(base.perplexity, name), rel=1e-6)


def test_another_number_of_lanes_gives_another_number(dataset: Path, trained: Path) -> None:
    numbers = {score(trained, dataset, f"evaluate.lanes={lanes}").perplexity.both for lanes in (1, 8, 64)}
    assert len(numbers) == 3


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 3])
def test_the_number_does_not_depend_on_the_number_of_processes(
    dataset: Path, trained: Path, tmp_path: Path, devices: int
) -> None:
    command = ["evaluate", f"checkpoint={trained}", f"data={dataset}", "accelerator=cpu", "evaluate.lanes=7"]
    output = tmp_path / "result.json"
    process = processes.Process(*command, f"devices={devices}", f"output={output}", log=tmp_path / "log")
    assert process.wait() == 0, process.output()
    result, expected = json.loads(output.read_text()), score(trained, dataset, "evaluate.lanes=7").as_dict()
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
    assert process.output().count("perplexity forward") == 1
    assert f"{expected['perplexity']:.2f}" in process.output() and "evaluate.lanes=7" in process.output()


def test_a_text_file_scores_the_same_as_a_dataset_made_of_it(dataset: Path, trained: Path, tmp_path: Path) -> None:
    text = dataset.parent / "heldout.txt"
    runs.prepare([str(text)], str(tmp_path / "alone"), heldout=0, shuffle="none", workers=1, show_progress=False)
    lanes = "evaluate.lanes=5"
    of_text, of_dataset = score(trained, text, lanes), score(trained, tmp_path / "alone", lanes, "split=train")
    assert of_text.perplexity == of_dataset.perplexity
    assert (of_text.outside_share, of_text.unigram) == (of_dataset.outside_share, of_dataset.unigram)
    assert of_text.perplexity.tokens == sum(len(s) + 1 for s in text_of(dataset, "heldout"))


def test_unknown_words_and_the_unigram_baseline_equal_plain_counts(dataset: Path, trained: Path) -> None:
    counts = Counter(word for sentence in text_of(dataset, "train") for word in [*sentence, "</S>"])
    words = load_trained(str(trained)).words
    assert words[:3] == ["<S>", "</S>", "<UNK>"] and len(words) == 300
    known = set(words[1:]) - {"<UNK>"}
    assert min(counts[w] for w in known) >= max(n for w, n in counts.items() if w not in known)
    total = sum(counts.values())
    outside = total - sum(counts[word] for word in known)
    heldout = [word for sentence in text_of(dataset, "heldout") for word in [*sentence, "</S>"]]
    nats = -sum(math.log(((counts[w] if w in known else outside) + 1) / (total + 300)) for w in heldout)
    spoken = [word for word in heldout if word != "</S>"]
    for result in (score(trained, dataset), score(trained, dataset.parent / "heldout.txt")):
        assert result.outside_share == pytest.approx(sum(w not in known for w in spoken) / len(spoken))
        assert result.unigram == pytest.approx(math.exp(nats / len(heldout)))
    assert 0.1 < result.outside_share < 0.9 and result.unk_share == 0


def test_unk_words_in_the_text_itself_are_counted_separately(trained: Path, tmp_path: Path) -> None:
    known = load_trained(str(trained)).words[3]
    text = corpora.write_text(
        tmp_path / "text.txt", [f"{known} <UNK> {known} neverseen", f"{known} <UNK> <UNK> {known}"]
    )
    result = score(trained, text)
    assert (result.outside_share, result.unk_share) == (1 / 8, 3 / 8)
    assert "12.50% outside the vocabulary of 300, 37.50% <UNK> in the text itself" in str(result)
    written = result.as_dict()
    assert (written["outside_vocabulary_share"], written["unk_share"]) == (1 / 8, 3 / 8)


def test_validation_in_training_gives_the_same_number_as_evaluate(dataset: Path, trained: Path) -> None:
    logged = read_metrics(trained)[60]
    result = score(trained, dataset, "evaluate.lanes=8")  # the number of lanes of the run
    assert result.step == 60
    assert result.perplexity.tokens == logged["val/tokens"]
    assert result.perplexity.both == pytest.approx(logged["val/perplexity"], rel=1e-6)
    assert result.perplexity.forward == pytest.approx(logged["val/perplexity_forward"], rel=1e-6)
    assert result.perplexity.backward == pytest.approx(logged["val/perplexity_backward"], rel=1e-6)


def test_the_result_is_written_as_json(dataset: Path, trained: Path, tmp_path: Path) -> None:
    result = score(trained, dataset, f"output={tmp_path / 'result.json'}")
    written = json.loads((tmp_path / "result.json").read_text())
    assert written == result.as_dict()
    assert written["tokens"] == result.perplexity.tokens and written["perplexity"] < written["unigram_perplexity"] * 2
    assert f"{written['perplexity']:.2f}" in str(result)


def test_a_checkpoint_file_scores_the_same_as_its_run(dataset: Path, trained: Path) -> None:
    (file,) = (trained / "checkpoints").glob("*.ckpt")
    assert score(file, dataset).perplexity == score(trained, dataset).perplexity


def test_bf16_gives_nearly_the_same_perplexity(dataset: Path, trained: Path) -> None:
    full, half = score(trained, dataset), score(trained, dataset, "precision=bf16-mixed")
    assert half.perplexity.both == pytest.approx(full.perplexity.both, rel=0.02)
    assert half.perplexity.both != full.perplexity.both


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("split=train2", "has no split 'train2'"),
        ("checkpoint=/none", "no such checkpoint"),
        ("checkpoint=''", "is missing"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(
    dataset: Path, trained: Path, pair: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        score(trained, dataset, pair)


@pytest.mark.slow
def test_all_ranks_end_when_rank_zero_is_killed(trained: Path, dataset: Path, tmp_path: Path) -> None:
    """Rank 1 would otherwise wait for ever in its first exchange with rank 0."""
    command = [sys.executable, "-m", "pipeline.cli", "evaluate", f"checkpoint={trained}", f"data={dataset}",
               "devices=2", "accelerator=cpu", f"output={tmp_path / 'out.json'}"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as rank_zero:
        ranks: list[psutil.Process] = []
        while not ranks and rank_zero.poll() is None:
            ranks = psutil.Process(rank_zero.pid).children()
        rank_zero.kill()
    assert len(ranks) == 1 and psutil.wait_procs(ranks, timeout=60)[1] == []
