"""Models on the Hugging Face hub (extra `hub`): fetch a folder, upload a folder, write a model card."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.schema import ConfigError, ModelConfig
from pipeline.model.dictionary import dictionary_of
from pipeline.version import __version__

_INSTALL = "pip install 'elmo-pipeline[hub]'"


class HubId(NamedTuple):
    """A repository on the hub. revision: branch, tag or commit; None for the newest."""

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, location: str) -> "HubId | None":
        """Parse ORG/NAME or ORG/NAME@REVISION; return None for anything else, and for RUNS/NAME if RUNS is a folder."""
        match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", location)
        if match is None or location.endswith(".ckpt") or Path(location).exists() or Path(location).parent.is_dir():
            return None
        return cls(match[1], match[2])


def fetch(hub_id: HubId, files: list[str]) -> Path:
    """Download those of `files` that the repository has; return their folder in the hub's own cache."""
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise ConfigError(f"{hub_id.repository}: no such folder here; to fetch it from the hub: {_INSTALL}") from None
    at = f"{hub_id.repository} at {hub_id.revision or 'its newest revision'}"
    try:
        return Path(snapshot_download(hub_id.repository, revision=hub_id.revision, allow_patterns=files))
    except errors.GatedRepoError:
        raise ConfigError(f"{at} is gated on the hub; ask there for access, then `hf auth login`") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise ConfigError(
            f"{at} is neither a folder here nor on the hub; check the name, or `hf auth login` if it is private"
        ) from None
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(f"{at} is no folder here, and cannot be fetched from the hub ({reason})") from None


def upload(folder: Path, names: list[str], repository: str, revision: str | None, private: bool) -> str:
    """Upload the files `names` of a folder, and no others, as one commit; return the commit's address."""
    try:
        from huggingface_hub import HfApi, errors
    except ImportError:
        raise ConfigError(f"to push to the hub: {_INSTALL}") from None
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, revision=revision, allow_patterns=names)
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ConfigError(f"{folder} cannot be pushed to {repository} ({reason}); try `hf auth login`") from None
    return str(commit)


def model_card(
    model: ModelConfig, parameters: dict[str, int], vocabulary: int | None, facts: dict[str, Any], hub: str = ""
) -> str:
    """Return README.md of a model: corpus, tokens, perplexity, settings, use. Unknown facts are marked as unknown.

    hub: the model's name on the hub, if known.
    """
    widths = ", ".join(f"{number} of width {width}" for width, number in model.filters)
    rows = [
        *([("Pretrained on", _pretraining(facts["pretrained_on"]))] if facts.get("pretrained_on") else []),
        ("Fine-tuned on" if facts.get("pretrained_on") else "Corpus", facts.get("corpus")),
        ("Corpus fingerprint", facts.get("corpus_fingerprint")),
        ("Training tokens, each way", _number(facts.get("tokens"))),
        ("Held-out perplexity", _perplexity(facts.get("perplexity"))),
        ("Parameters", f"{parameters['bilm']:,}, and {parameters['softmax']:,} of the softmax"),
        ("Vocabulary", f"{vocabulary:,} words" if vocabulary else None),
        ("Layers", f"{model.num_layers} x {model.lstm_dim} cells projected to {model.projection_dim}, each way"),
        ("Skip connections", "yes" if model.skip_connections else "no"),
        ("Clips of cell and projection", f"{model.cell_clip or 'none'} and {model.proj_clip or 'none'}"),
        ("Characters", f"{model.max_characters} of {model.character_dim} values; {widths}; {model.activation}; "
                       f"{model.num_highway} highway layers"),
        ("Made from", facts.get("source")),
        ("Trained with", facts.get("trained_with")),
        ("Exported with", facts.get("exported_with")),
    ]  # fmt: skip
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows)
    address = _address()
    spelling = _SPELLING if dictionary_of(model) is None else _DICTIONARY_SPELLING
    return _CARD.format(
        table=table, dim=2 * model.projection_dim, name=hub or "ORG/NAME", version=__version__,
        address=address or "URL", whence="" if address else " URL stands for where you have its repository from.",
        cells=model.lstm_dim, spelling=spelling.format(max_characters=model.max_characters),
    )  # fmt: skip


def _cell(value: str | None) -> str:
    """Return a fact as one line that fits into a cell of the table."""
    return " ".join(value.replace("|", "/").split()) if value else "unknown"


def _address() -> str:
    """Return the address of the project's repository from its metadata (`project.urls` of pyproject.toml), or ""."""
    try:
        urls = metadata.metadata("elmo-pipeline").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        urls = []
    return next((url.partition(",")[2].strip() for url in urls), "")


def _pretraining(earlier: list[dict[str, Any]]) -> str:
    """Return corpus and tokens of each training before the last, oldest first."""
    parts = []
    for one in earlier:
        tokens = _number(one.get("tokens"))
        size = f"{tokens} tokens each way" if tokens else "tokens unknown"
        parts.append(f"{one.get('corpus') or one.get('source') or 'unknown'} ({size})")
    return ", then ".join(parts)


def _number(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _perplexity(value: dict[str, Any] | None) -> str | None:
    """Return the perplexity with what it covers: directions, tokens, number of evaluation lanes."""
    if value is None:
        return None
    parts = [f"**{value['both']:.2f}**"]
    parts += [f"{name} {value[name]:.2f}" for name in ("forward", "backward") if value.get(name) is not None]
    parts += [f"{value['tokens']:,} tokens each way"] if value.get("tokens") else []
    parts += [f"states start cold in {value['lanes']} places"] if value.get("lanes") else []
    return ", ".join([*parts, "full softmax"])


_SPELLING = """A word is {max_characters} character ids: 258, its UTF-8 bytes (0 to 255), 259, and 260 up to
the end. The sentence bounds are 258, 256, 259 (`<S>`) and 258, 257, 259 (`</S>`)."""
_DICTIONARY_SPELLING = """A word is {max_characters} character ids: 258, its characters
(lines of `characters.txt`), 259, and 260 up to the end."""
_CARD = """---
library_name: elmo-pipeline
pipeline_tag: feature-extraction
tags: [elmo, bilm, contextual-word-representations]
license: other
license_name: to-be-chosen
---
# An ELMo biLM

A bidirectional language model over characters (Peters et al., 2018), for contextual word vectors of {dim} values.

| | |
|---|---|
{table}

## Install
The program is elmo-pipeline; this card was written by version {version}.{whence}
```console
$ git clone {address} elmo && cd elmo
$ sh install.sh .venv hub,text,weights
$ . .venv/bin/activate
```

## Use
```python
from pipeline import Elmo
elmo = Elmo.from_pretrained("{name}")     # or the path of this folder
output = elmo([["A", "sentence", "of", "words", "."]])
```
```console
$ elmo embed checkpoint={name} input=sentences.txt output=vectors.h5
$ elmo embed checkpoint={name} input=raw.txt output=raw.h5 tokenize=true
$ elmo export checkpoint={name} output=allennlp format=allennlp
```

## Input
Tokenised text: a sentence is a list of words, in a file a line of words with spaces between. Punctuation marks are
words of their own, and the case of letters is kept. `tokenize=true` splits raw text into such sentences and words.

## Weights
`model.safetensors` in float32, direction 0 forward and 1 backward, x @ W. The gates of a cell stand in the order
i, j, f, o (input, candidate, forget, output), {cells} values each. At run time 1.0 is added to the forget gate's bias,
which is not in the file. {spelling} All names: docs/reference/formats.md
of the program.

## Licence
To be chosen by whoever publishes this model: the licence of the weights, and what the corpus allows.
"""
