"""Settings of a biLM with a dictionary of characters. Such models come from others, by `elmo import`."""

from dataclasses import dataclass

from pipeline.characters import Dictionary
from pipeline.config.schema import ModelConfig


@dataclass
class DictionaryModelConfig(ModelConfig):
    dictionary: Dictionary = Dictionary(("<oov>",))


def dictionary_of(config: ModelConfig) -> Dictionary | None:
    """Return the dictionary of a model, None for a model over UTF-8."""
    return config.dictionary if isinstance(config, DictionaryModelConfig) else None
