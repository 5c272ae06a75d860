"""Evaluation lanes that do worse than uniform guessing, while most do not, are counted and reported."""

import numpy as np
import pytest
import torch

from data_prep.dataset.lexicon import EOS_ID
from pipeline.config.schema import EvaluateConfig, ModelConfig
from pipeline.data.datamodule import evaluation_windows
from pipeline.model.language_model import LanguageModel
from pipeline.train.validate import Perplexity, held_out_perplexity
from tests.data.corpora import MAX_CHARACTERS, Corpus

VOCABULARY, LANES = 12, 4
A_LANE = [12] * 10  # words of each of its sentences


def bilm(loud_from: int, loud_to: int) -> LanguageModel:
    """Return a model that always predicts the words [loud_from, loud_to)."""
    torch.manual_seed(0)
    config = ModelConfig(
        filters=[[1, 4]], num_highway=0, lstm_dim=4, projection_dim=4, max_characters=MAX_CHARACTERS, num_layers=1
    )
    made = LanguageModel(config, VOCABULARY)
    with torch.no_grad():
        made.softmax.weight.zero_()
        made.softmax.bias[loud_from:loud_to] = 9.0
    return made


def perplexity(model: LanguageModel, corpus: Corpus) -> Perplexity:
    config = EvaluateConfig(lanes=LANES, lanes_at_once=3)  # so that the lanes are not all computed together
    windows = evaluation_windows(corpus, corpus.maker(VOCABULARY), config)  # type: ignore[arg-type]
    return held_out_perplexity(model, windows, config, torch.device("cpu"))


@pytest.fixture
def corpus() -> Corpus:
    """Return a corpus whose lane 2 has the words 10 and 11, and whose other lanes have the words 3 to 9."""
    made = Corpus([[A_LANE] * LANES], types=7)
    made.chunks[2][made.chunks[2] >= 3] = 10 + made.chunks[2][made.chunks[2] >= 3] % 2
    return made


def test_a_lane_that_diverges_is_counted_in_both_directions(corpus):
    found = perplexity(bilm(0, 10), corpus)
    assert found.diverged_lanes == 2
    assert found.warning.startswith("2 of 8 evaluation lanes did worse")


def test_no_lane_counts_as_diverged_if_all_do_equally_well(corpus):
    found = perplexity(bilm(0, VOCABULARY), corpus)
    assert found.both == pytest.approx(VOCABULARY)
    assert (found.diverged_lanes, found.warning) == (0, "")


def test_no_lane_counts_as_diverged_if_the_model_is_bad_everywhere(corpus):
    found = perplexity(bilm(10, 12), corpus)
    assert found.both > VOCABULARY
    assert found.diverged_lanes == 0


def test_a_lane_of_few_tokens_is_not_counted():
    corpus = Corpus([[[12] * 2] * LANES], types=7)
    corpus.chunks[2][:] = np.where(corpus.chunks[2] >= 3, 11, EOS_ID)
    assert perplexity(bilm(0, 10), corpus).diverged_lanes == 0


def test_the_watchdog_is_told_of_each_window(corpus):
    """A group of lanes may take longer than the watchdog waits."""
    config, beats = EvaluateConfig(lanes=LANES, lanes_at_once=LANES, window=4), []
    windows = evaluation_windows(corpus, corpus.maker(VOCABULARY), config)
    held_out_perplexity(bilm(10, 12), windows, config, torch.device("cpu"), beat=lambda: beats.append(1))
    assert len(beats) == windows.lanes.num_windows > 2
