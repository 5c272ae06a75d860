"""Fine-tune one model on several domains and compare with training from scratch for the same steps; print Markdown.

python -m benchmarks.domains OUT [--texts=DIR] [--domains=NAME,NAME] [--config=FILE] [--epochs=1] [key=value ...]

DIR holds the texts below (lm/ and domain/). FILE is configs/demo.yaml unless given. Every step is a command of `elmo`,
which is printed; finished steps of an earlier call are not repeated. key=value pairs apply to all trainings. The tables
go to standard output and to OUT/domains.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure.command import elmo, require_known, split_options, table
from data_prep.dataset.open import open_dataset
from pipeline.apply.load import load_trained
from pipeline.config.schema import EvaluateConfig
from pipeline.finetune.report import score

GENERAL = "lm/general-2m.train.tok.txt.xz"
_BIOMED = "domain/craft-biomed"
DOMAINS = {  # training text and held-out text
    "API documentation": ["domain/aws-api-docs.train-1m.tok.txt.xz", "heldout=0.04"],
    "biomedical articles": [f"{_BIOMED}.train.tok.txt.xz", f"heldout_input={{texts}}/{_BIOMED}.dev.tok.txt.xz"],
    "image captions": ["domain/snli-captions.train.tok.txt.xz", "heldout=0.06"],
    "novels": ["lm/novels-2m.train.tok.txt.xz", "heldout=0.02"],
}
FINETUNE = "configs/finetune.yaml"
SCRATCH_RATE = "optimizer.lr=0.2"  # as in the paper; fine-tuning uses half of it
MIX = 0.1
WAYS = ("keep", "mixed", "extend", "new")  # vocabularies; "mixed": the source's vocabulary, general text mixed in


def prepare(texts: Path, text: str, heldout: str, out: Path) -> None:
    elmo("prep", f"input={texts / text}", f"output={out}", heldout.format(texts=texts))


def train(out: Path, texts: Path, domains: list[str], config: str, epochs: str, pairs: list[str]) -> None:
    """Run all trainings to their end."""
    prepare(texts, GENERAL, "heldout=0.02", out / "general/data")
    source = out / "general/run"
    elmo("pretrain", config, f"data.path={out}/general/data", f"run.dir={source}", f"train.epochs={epochs}", *pairs)
    for domain in domains:
        text, heldout = DOMAINS[domain]
        home = out / domain.replace(" ", "-")
        prepare(texts, text, heldout, home / "data")
        for way in WAYS:
            mixed = ["finetune.vocabulary=keep", f"mix={out}/general/data:{MIX}"]
            how = mixed if way == "mixed" else [f"finetune.vocabulary={way}"]
            run = [f"data={home}/data", f"run.dir={home}/{way}", f"general={out}/general/data"]
            elmo("finetune", FINETUNE, f"from={source}", *run, *how, *pairs)
        scratch = [f"data.path={home}/data", f"run.dir={home}/scratch", SCRATCH_RATE]
        elmo("pretrain", config, FINETUNE, *scratch, *pairs)


def records(out: Path, domains: list[str]) -> dict[str, dict[str, Any]]:
    """Return finetune.json by domain and way; for `scratch` the figures on the domain."""
    found: dict[str, dict[str, Any]] = {}
    for domain in domains:
        home = out / domain.replace(" ", "-")
        found[domain] = {way: json.loads((home / way / "finetune.json").read_text()) for way in WAYS}
        trained = load_trained(str(home / "scratch"))
        figures = score(trained, open_dataset(home / "data"), EvaluateConfig(), torch.device("cpu"))
        found[domain]["scratch"] = {"figures": figures, "words": len(trained.words)}
    return found


def paper_table(found: dict[str, dict[str, Any]]) -> str:
    """Return the perplexities before and after fine-tuning with the source's words."""
    rows = []
    for domain, ways in found.items():
        before, after, mixed = ways["keep"]["before"], ways["keep"]["after"], ways["mixed"]["after"]
        pairs = [(before["domain"][key], after["domain"][key]) for key in ("forward", "backward", "both")]
        pairs.append((before["general"]["both"], after["general"]["both"]))
        last = f"{mixed['domain']['both']:.1f}, {mixed['general']['both']:.1f}"
        rows.append([domain, *(f"{was:.1f} → {became:.1f}" for was, became in pairs), last])
    heads = ["domain", "forward", "backward", "both", "general text", "with 10 % mixed in: domain, general"]
    return table(heads, rows)


def scratch_table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures of training from scratch and of fine-tuning over the domain's own words."""
    rows = []
    for domain, ways in found.items():
        scratch, new = ways["scratch"]["figures"], ways["new"]
        assert ways["scratch"]["words"] == new["words_after"]
        bits = [scratch.bits_a_character, ways["keep"]["before"]["domain"]["bits_a_character"]]
        bits += [ways[way]["after"]["domain"]["bits_a_character"] for way in ("keep", "extend", "new")]
        cells = [f"{new['words_after']:,}", f"{scratch.both:.1f}", f"{new['after']['domain']['both']:.1f}"]
        rows.append([domain, *cells, *(f"{value:.3f}" for value in bits)])
    bits_heads = ["bits a character: from scratch", "source", "kept", "extended", "new"]
    return table(["domain", "words", "from scratch", "fine-tuned", *bits_heads], rows)


def main(arguments: list[str]) -> None:
    """Run what is not run yet; print the tables and write them into OUT."""
    defaults = {"texts": "../shared/data", "domains": ",".join(DOMAINS), "config": "configs/demo.yaml", "epochs": "1"}
    options, rest = split_options(__doc__, arguments, **defaults)
    if not rest:
        raise SystemExit("give one argument: OUT")
    out, pairs, domains = Path(rest[0]), rest[1:], options["domains"].split(",")
    require_known("domains", domains, DOMAINS)
    train(out, Path(options["texts"]), domains, options["config"], options["epochs"], pairs)
    found = records(out, domains)
    text = (
        f"Held-out perplexity before → after fine-tuning with the source's words:\n\n{paper_table(found)}\n\n"
        "Perplexity over the domain's own words, trained from scratch and fine-tuned for the same steps:\n\n"
        f"{scratch_table(found)}"
    )
    (out / "domains.md").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
