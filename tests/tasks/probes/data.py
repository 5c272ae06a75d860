"""Small data of the probes: tagged words, words with senses, minimal pairs; and a tiny model."""

import json
from pathlib import Path

import numpy as np

from pipeline import cli
from pipeline.model.formats.pretrained import save_pretrained
from pipeline.model.language_model import LanguageModel
from tests.model import tiny

WORDS = ["<S>", "</S>", "<UNK>", "the", "a", "cat", "cats", "sleeps", "sleep", ".", "?"]
TAGS = {"the": "DT", "cat": "NN", "cats": "NNS", "sleeps": "VBZ", "sleep": "VBP", "river": "NN", "of": "IN", ".": "."}

INDEX = """\
art%1:06:00:: 02743547 1 43
art%1:09:00:: 05638987 3 10
bank%1:17:01:: 09213565 1 25
bank%1:14:00:: 08420278 2 20
bright%3:00:00:: 00278551 1 17
bright%5:00:00:intelligent:00 00422374 2 1
take_place%2:30:00:: 00339934 1 33
ring%2:39:01:: 02180898 1 5
"""
CLEVER = "bright%5:00:00:intelligent:00"
SEMCOR = [
    {"tokens": ["The", "bank", "of", "the", "river"], "senses": {"1": ["bank%1:17:01::"]}},
    {"tokens": ["The", "bank", "lends"], "senses": {"1": ["bank%1:14:00::", "bank%1:17:01::"]}},
    {"tokens": ["A", "bank", "took_place", "."], "senses": {"2": ["take_place%2:30:00::"], "1": ["bank%1:14:00::"]}},
    {"tokens": ["No", "sense", "here"], "senses": {}},
    {"tokens": ["A", "bright", "light"], "senses": {"1": ["bright%3:00:00::"]}},
    {"tokens": ["A", "bright", "bright", "child"], "senses": {"1": [CLEVER], "2": [CLEVER]}},
]  # fmt: skip
XML = """<?xml version="1.0" encoding="UTF-8" ?>
<corpus lang="en" source="x">
<text id="d000">
<sentence id="d000.s000">
<wf lemma="the" pos="DET">The</wf>
<instance id="d000.s000.t000" lemma="bank" pos="NOUN">banks</instance>
<instance id="d000.s000.t001" lemma="take_place" pos="VERB">took place</instance>
<wf lemma="&amp;" pos=".">&amp;</wf>
<instance id="d000.s000.t002" lemma="bright" pos="ADJ">brighter</instance>
</sentence>
<sentence id="d000.s001">
<instance id="d000.s001.t000" lemma="art" pos="NOUN">Art</instance>
<instance id="d000.s001.t001" lemma="Ring" pos="VERB">rings</instance>
<instance id="d000.s001.t002" lemma="bell" pos="NOUN">bells</instance>
</sentence>
</text>
</corpus>
"""
GOLD = """\
d000.s000.t000 bank%1:14:00:: bank%1:17:01::
d000.s000.t001 take_place%2:30:00::
d000.s000.t002 bright%3:00:00::
d000.s001.t000 art%1:09:00::
d000.s001.t001 ring%2:39:01::
d000.s001.t002 bell%1:06:00::
"""
PAIRS = [
    {"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.", "UID": "agreement", "field": "morphology"},
    {"sentence_good": "the cat sleeps.", "sentence_bad": "the cat sleep.", "UID": "agreement", "field": "morphology"},
    {"sentence_good": "the cat sleeps.", "sentence_bad": "cat the sleep.", "UID": "order", "field": "syntax/semantics"},
    {"sentence_good": "a cat?", "sentence_bad": "a cat sleep sleeps?", "UID": "order", "field": "syntax_semantics"},
    {"sentence_good": "cat", "sentence_bad": "cats sleep", "UID": "other"},
]  # fmt: skip


def model() -> LanguageModel:
    return tiny.bilm(tiny.config(), len(WORDS))


def save_model(folder: Path) -> Path:
    save_pretrained(folder, model(), words=WORDS, counts=np.arange(len(WORDS), 0, -1))
    return folder


def write_tagged(path: Path, sentences: int, seed: int) -> Path:
    chance = np.random.default_rng(seed)
    lines = []
    for _ in range(sentences):
        lines += [f"{word}\t{TAGS[word]}" for word in chance.choice(list(TAGS), int(chance.integers(1, 9)))] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_senses(folder: Path, name: str = "senseval2", xml: str = XML, gold: str = GOLD) -> list[str]:
    """Write all files of `elmo probe wsd`; return its arguments."""
    (folder / "index.sense").write_text(INDEX)
    (folder / "semcor.jsonl").write_text("".join(json.dumps(sentence) + "\n" for sentence in SEMCOR))
    (folder / f"{name}.data.xml").write_text(xml)
    (folder / f"{name}.gold.key.txt").write_text(gold)
    return [
        f"semcor={folder / 'semcor.jsonl'}", f"sense_index={folder / 'index.sense'}", f"test={folder / name}.data.xml",
    ]  # fmt: skip


def write_pairs(path: Path) -> Path:
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


def embed(model: Path, sentences: Path, output: Path) -> Path:
    """Write the HDF5 file that another program would make of the sentences."""
    assert cli.main(["embed", f"checkpoint={model}", f"input={sentences}", f"output={output}", "accelerator=cpu"]) == 0
    return output
