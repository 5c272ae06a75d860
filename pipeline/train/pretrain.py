"""`elmo pretrain`: plan a pretraining on a dataset, and run it."""

from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from pipeline.config.schema import ConfigError, DataConfig, PretrainConfig
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary, choose_vocabulary, vocabulary_tensors
from pipeline.train.outcome import Outcome
from pipeline.train.plan import Corpus, Plan
from pipeline.train.run import run


def pretrain(config: PretrainConfig) -> Outcome:
    """Train a biLM that is initialized from the seed; see `run`."""
    return run(plan_pretraining(config))


def plan_pretraining(config: PretrainConfig) -> Plan:
    """Open the dataset of data.path and plan a pretraining on it."""
    dataset = open_training_data(config.data, config.data.path)
    size = choose_vocabulary(dataset, config.data)
    lanes = TrainLanes(dataset.splits["train"].num_tokens, config.data.lanes, config.data.window)
    corpus = Corpus(dataset, Vocabulary(size), lanes)
    return Plan(config, corpus, lambda: vocabulary_tensors(dataset.lexicon, size))


def open_training_data(config: DataConfig, path: str) -> Dataset:
    """Return the dataset at `path`. Raises ConfigError if it has no training split."""
    dataset = open_dataset(path, config.cache_dir, config.staged_at)
    if "train" not in dataset.splits:
        raise ConfigError(f"{path} has no training split; prepare one with `elmo prep`")
    return dataset
