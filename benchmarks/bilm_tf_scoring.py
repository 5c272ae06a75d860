"""Score the tokens that bilm-tf scores: bilm-tf leaves out tokens that do not fill its last batches.

python -m benchmarks.bilm_tf_scoring CHECKPOINT HELDOUT [--lanes=256] [--threads=N] [--output=FILE]

CHECKPOINT: a checkpoint, a run's folder or an exported model with softmax. HELDOUT: text, one tokenised sentence per
line. `elmo evaluate` scores every token; use this to compare with bilm-tf's own figures.

Source: bilm-tf, test() in training.py and _get_batch() in data.py. Each step scores one token of each of 256 lanes. A
lane whose sentence has ended takes the next sentence of the file. When there is none left, all lanes stop. On
WikiText-2's held-out part this scores 195,072 of 216,347 tokens, the number that bilm-tf printed.
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure.command import split_options, write_result
from data_prep.dataset.lexicon import EOS_ID
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Split
from data_prep.prepare import prepare
from pipeline.apply.load import Trained, load_trained
from pipeline.config.schema import EvaluateConfig
from pipeline.data.datamodule import evaluation_windows
from pipeline.data.vocabulary import vocabulary_of
from pipeline.data.windows import BatchMaker, EvaluationWindows
from pipeline.model.bilm import Window
from pipeline.model.language_model import LanguageModel
from pipeline.train.validate import Perplexity

LANES = 256  # as in bilm-tf's run_test


def scored_tokens(sentence_tokens: list[int], lanes: int = LANES) -> list[int]:
    """Return how many tokens of each sentence, in file order, are scored: the first ones in reading order."""
    scored, left, current = [0] * len(sentence_tokens), [0] * lanes, [-1] * lanes
    waiting = iter(range(len(sentence_tokens)))
    while True:
        for lane in range(lanes):
            if left[lane] == 0:
                following = next(waiting, None)
                if following is None:
                    return scored
                current[lane], left[lane] = following, sentence_tokens[following]
        for lane in range(lanes):
            scored[current[lane]] += 1
            left[lane] -= 1


@torch.no_grad()
def perplexity_as_bilm_tf_scores(trained: Trained, heldout: Path, lanes: int = LANES) -> Perplexity:
    """Return the perplexities over the scored tokens. heldout: the text, one sentence per line."""
    with tempfile.TemporaryDirectory() as folder:
        prepare([str(heldout)], folder, heldout=0, shuffle="none", workers=1, show_progress=False)
        dataset = open_dataset(folder)
        split = dataset.splits["train"]
        if split.num_sentences < lanes:
            raise SystemExit(f"{heldout} has {split.num_sentences} sentences; with {lanes} lanes bilm-tf scores none")
        maker = BatchMaker(
            dataset.lexicon, vocabulary_of(trained.words, dataset.lexicon), trained.config.model.max_characters
        )
        losses = _losses(trained.bilm, evaluation_windows(split, maker, EvaluateConfig()))
        mask = _mask(split, lanes)
    forward, backward = losses[:, mask].mean(1).tolist()
    both = math.exp((forward + backward) / 2)
    return Perplexity(both, math.exp(forward), math.exp(backward), int(mask.sum()), lanes)


def _losses(bilm: LanguageModel, windows: EvaluationWindows) -> np.ndarray:
    """Return (2, tokens): nats of each target, in each direction's reading order."""
    order = range(windows.lanes.num_lanes)
    states, found = bilm.initial_states(len(order)), np.zeros((2, windows.lanes.num_tokens))
    for number in range(windows.lanes.num_windows):
        batch = windows.batch(number, order)
        losses, states = bilm.token_losses(Window(batch.characters, batch.word_index), batch.targets, states)
        for lane in order:
            start, stop = windows.lanes.bounds(lane, number)
            found[:, start:stop] = losses[:, : stop - start, lane].double().numpy()
    return found


def _mask(split: Split, lanes: int) -> np.ndarray:
    """Return (tokens,) bool: True at scored places, which are the same in both directions."""
    words = np.concatenate([split.chunk(number) for number in range(split.num_chunks)])
    ends = np.flatnonzero(words == EOS_ID) + 1
    starts = np.concatenate([[0], ends[:-1]])
    mask = np.zeros(len(words), bool)
    for start, scored in zip(starts, scored_tokens((ends - starts).tolist(), lanes), strict=True):
        mask[start : start + scored] = True
    return mask


def main(arguments: list[str]) -> None:
    """Print the perplexities and, with --output, write the figures as JSON."""
    options, names = split_options(__doc__, arguments, lanes=LANES)
    if len(names) != 2:
        raise SystemExit("give two arguments: CHECKPOINT HELDOUT")
    found = perplexity_as_bilm_tf_scores(load_trained(names[0]), Path(names[1]), options["lanes"])
    print(f"{found.tokens:,} tokens scored each way, as bilm-tf does in {found.lanes} lanes")
    print(f"perplexity forward {found.forward:.2f}, backward {found.backward:.2f}, both {found.both:.2f}")
    write_result(options["output"], found.as_dict())


if __name__ == "__main__":
    main(sys.argv[1:])
