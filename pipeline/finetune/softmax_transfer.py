"""Initialise a softmax over a new vocabulary from a trained one: copy rows of shared words, estimate rows of new ones.

Measured with a biLM of configs/demo.yaml, trained for an epoch of 2.1 M words of general English and fine-tuned with an
extended vocabulary on 82 k sentences of API documentation and on 13 k of biomedical articles (4,932 and 3,986 new
words). Held-out perplexity by `elmo finetune configs/finetune.yaml from=... data=... finetune.vocabulary=extend` with
finetune.new_rows=                                                           mean   encoder

    API documentation, step 0, train.validate_tokens=12000                    535       513
    biomedical articles, the same                                             545       513
    image captions, the same (1,059 new words)                                433       427
    API documentation, train.max_steps=250                                  112.7     109.1
    biomedical articles, an epoch, 528 steps                                145.2     140.4
"""

import math

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.lexicon import SPECIALS
from pipeline.model.elmo.sentence_batch import spell_sentences
from pipeline.model.elmo.word_cache import encode_words
from pipeline.model.softmax import Softmax
from pipeline.model.token_encoder import TokenEncoder

_MAX_FITTED = 50_000  # words of the regression: enough to fit it; a million words would take minutes
_RIDGE = 0.1  # times the mean square of the regressors


def transfer_rows(softmax: Softmax, source: Softmax, rows: np.ndarray) -> None:
    """Copy the source's row rows[v] to row v, bit for bit, where rows[v] >= 0; other rows are not changed."""
    places = torch.from_numpy(np.flatnonzero(rows >= 0))
    found = torch.from_numpy(rows[rows >= 0])
    with torch.no_grad():
        softmax.weight[places] = source.weight[found].to(softmax.weight)
        softmax.bias[places] = source.bias[found].to(softmax.bias)


def estimate_rows(
    softmax: Softmax,
    rows: np.ndarray,
    words: list[str],
    shares: np.ndarray,
    source_shares: np.ndarray,
    encoder: TokenEncoder | None,
    max_characters: int,
) -> None:
    """Estimate rows of new words (rows[v] < 0) from the rows that were copied.

    shares (V,): each word's share of the text to be trained on. source_shares (V,): of copied rows, the word's share of
    the source's training text. The bias is a linear regression on the log of the share. The weight is the mean row, or
    with an encoder a ridge regression of rows on the encoder's vectors of the words.
    """
    new = np.flatnonzero(rows < 0)
    known = np.flatnonzero(rows >= len(SPECIALS))
    known = known[np.argsort(-source_shares[known], kind="stable")][:_MAX_FITTED]
    if not len(new) or not len(known):
        return
    weight, bias = softmax.weight.detach(), softmax.bias.detach()
    with torch.no_grad():
        if encoder is None:
            estimate = weight[known].mean(0).expand(len(new), -1)
        else:
            vectors = _vectors(encoder, [words[v] for v in [*known, *new]], max_characters)
            old, unseen = vectors[: len(known)], vectors[len(known) :]
            estimate = _ridge(old, weight[known], _row_weights(source_shares[known]), unseen)
        log_shares, row_weights = _log(source_shares[known]), _row_weights(source_shares[known])
        biases = _ridge(log_shares, bias[known, None], row_weights, _log(shares[new]))
        weight[new], bias[new] = estimate.to(weight), biases[:, 0].to(bias)


def _vectors(encoder: TokenEncoder, words: list[str], max_characters: int) -> Tensor:
    """Return (n, P) vectors of distinct words, none of which is a sentence bound."""
    spelled = spell_sentences([words], max_characters)
    return encode_words(encoder, spelled.characters[2:])


def _log(shares: np.ndarray) -> Tensor:
    """Return (n, 1) log of the shares; a word that was never seen gets half of the smallest share."""
    least = shares[shares > 0].min(initial=math.inf)
    return torch.from_numpy(np.log(np.maximum(shares, least / 2 if least < math.inf else 1.0))).unsqueeze(1)


def _row_weights(shares: np.ndarray) -> Tensor:
    """Return (n,) weights in a regression: less for rows of rare words, which were trained little; bounded above."""
    if not shares.any():
        return torch.ones(len(shares), dtype=torch.float64)
    return torch.from_numpy(np.minimum(shares / np.median(shares[shares > 0]), 10.0))


def _ridge(x: Tensor, y: Tensor, weights: Tensor, new_x: Tensor) -> Tensor:
    """Return (m, k): predictions for new_x (m, p) of the weighted ridge regression of y (n, k) on x (n, p), constant
    included."""
    x, y, new_x, weights = x.double().cpu(), y.double().cpu(), new_x.double().cpu(), weights / weights.sum()
    mean_x, mean_y = weights @ x, weights @ y
    x, y = x - mean_x, y - mean_y
    weighted = x * weights.unsqueeze(1)
    gram = weighted.t() @ x
    gram += _RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=gram.dtype)
    return (new_x - mean_x) @ torch.linalg.solve(gram, weighted.t() @ y) + mean_y
