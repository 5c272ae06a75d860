"""`elmo cove import`: the encoder that McCann et al. published, as a model folder.

salesforce/cove (cove/encoder.py:48-56) stores the state of one `torch.nn.LSTM` of two layers; keys of a whole MTLSTM
have its attribute's name (rnn, rnn1) in front.
"""

import re
from pathlib import Path

from data_prep.dataset.locations import local_path
from pipeline.config.cove import CoveImportConfig
from pipeline.config.schema import ConfigError, require
from pipeline.model.formats.safe_pickle import load_named_tensors
from pipeline.model.formats.weight_checks import as_float32, check_finite, check_shapes
from pipeline.tasks.cove.encoder import TranslationEncoder, encoder_shapes
from pipeline.tasks.cove.model import CONFIG, Cove, vectors_of
from pipeline.tasks.examples.word_vectors import read_first_vectors

_KEY = re.compile(r"(?:rnn1?\.)?((?:weight|bias)_(?:ih|hh)_l)(\d{1,2})((?:_reverse)?)")
_WHAT = "give the encoder's file of salesforce/cove (wmtlstm-*.pth)"


def read_published(path: str | Path) -> TranslationEncoder:
    """Return the encoder in a file of salesforce/cove. Raises ConfigError for any other file."""
    name = local_path(path)
    require(name.is_file(), f"weights={path} is no file; {_WHAT}")
    content = load_named_tensors(name, _WHAT)
    found = as_float32({_renamed(str(key), path): value for key, value in content.items()}, str(path))
    first = found.get("layers.0.weight_ih_l0")
    if first is None or first.dim() != 2 or first.shape[0] % 4 or not first.numel():
        raise ConfigError(f"{path} has no weight_ih_l0 of (4 x hidden, input) values; {_WHAT}")
    layers = {int(key.split(".")[1]) for key in found}
    sizes = first.shape[1], first.shape[0] // 4, max(layers) + 1
    shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
    check_shapes(shapes, encoder_shapes(*sizes), str(path), "its weight_ih_l0")
    check_finite(found, str(path))
    encoder = TranslationEncoder(*sizes)
    encoder.load_state_dict(found)
    return encoder


def import_cove(config: CoveImportConfig) -> str:
    """Write the published encoder with its word vectors as a model folder; return what was written."""
    output = local_path(config.output, "output")
    require(
        config.overwrite or not (output / CONFIG).exists(),
        f"output={config.output} holds a model; give another folder, or overwrite=true",
    )
    encoder = read_published(config.weights)
    words, values = read_first_vectors(config.vectors, config.max_vectors, config.case == "lower")
    dim = encoder.layers[0].input_size
    require(
        values.shape[1] == dim,
        f"{config.vectors} has {values.shape[1]} numbers a word, but {config.weights} reads {dim}; give the vectors "
        "that it was trained with (GloVe 840B 300d)",
    )
    Cove(*vectors_of(words, values, config.case), encoder).save(output)
    return f"{config.output}: {len(encoder.layers)} layers over {len(words):,} word vectors"


def _renamed(key: str, path: str | Path) -> str:
    match = _KEY.fullmatch(key)
    if match is None:
        raise ConfigError(f"{path} holds {key[:60]!r}, which is no weight of an LSTM; {_WHAT}")
    return f"layers.{int(match[2])}.{match[1]}0{match[3]}"
