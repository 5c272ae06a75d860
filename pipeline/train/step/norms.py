"""Norms of gradients, weights and updates by parameter group, and histograms of the layers' norms, of one step.

These are bilm-tf's norm_pre_clip, norm_post_clip and UPDATE (training.py:572-603, 926-967), by group instead of by
variable. Only the touched rows of the softmax count, as in bilm-tf. Rows that words share are left out: their gradient
is sparse or dense by the device, and not clipped.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.model.bilm import BiLM
from pipeline.model.lstmp import LSTMPState
from pipeline.train.step.optimizer import rows_of

Histogram = tuple[np.ndarray, np.ndarray]  # counts, and the edges between them

_HISTOGRAM_LANES = 8  # a sample of the batch
_BINS = 32
_SHARED_ROWS = "softmax.affixes.weight"
_TINY = 1e-7  # as in bilm-tf, for the ratio of a weight of zeros


class StepNorms:
    """Compute norms and histograms every `every_steps` steps; keep a copy of the weights during an update."""

    def __init__(self, bilm: BiLM, clip_norm: float | None, every_steps: int) -> None:
        self._bilm, self._clip_norm, self._every = bilm, clip_norm, every_steps
        self._before: dict[str, tuple[Tensor | None, Tensor]] = {}
        self._squares: dict[str, dict[str, Tensor]] = {}
        self._norm_before_clip = 0.0
        self._histograms: dict[str, Histogram] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def is_due(self, step: int) -> bool:
        """Return whether norms are computed in the step that ends as number `step`."""
        return step % self._every == 0

    def watch_layers(self, step: int) -> None:
        """Record histograms in the first forward pass, if norms are computed in the step that ends as number `step`."""
        if not self.is_due(step):
            return
        self._histograms = {}
        self._hooks = [
            layer.register_forward_hook(partial(self._observe, depth)) for depth, layer in enumerate(self._bilm.layers)
        ]

    def _observe(
        self, depth: int, layer: torch.nn.Module, inputs: tuple[Tensor, LSTMPState], outputs: tuple[Tensor, LSTMPState]
    ) -> None:
        self._hooks[depth].remove()
        if depth == 0:
            self._histograms["layer_norm/token"] = _norm_histogram(inputs[0][0])
        for d, direction in enumerate(("forward", "backward")):
            self._histograms[f"layer_norm/{depth + 1}.{direction}"] = _norm_histogram(outputs[0][d])

    def before_update(self, step: int, norm_before_clip: Tensor) -> None:
        """Keep the clipped gradients' squares, and the weights before the update. A dropped step has no gradients."""
        self._before, self._squares = {}, {}
        if not self.is_due(step):
            return
        self._norm_before_clip = float(norm_before_clip)
        for name, parameter in self._bilm.named_parameters():
            if parameter.grad is None or name == _SHARED_ROWS:
                continue
            rows, grad = rows_of(parameter.grad)
            weight = parameter.detach().clone() if rows is None else parameter.detach()[rows]
            self._before[name] = rows, weight
            self._squares[name] = dict(_squares(name, "grad", grad)) | dict(_squares(name, "weight", weight))

    def after_update(self) -> None:
        """Compute the squares of the update."""
        for name, (rows, old) in self._before.items():
            new = self._bilm.get_parameter(name).detach()
            self._squares[name] |= dict(_squares(name, "update", (new if rows is None else new[rows]) - old))
        self._before = {}

    def take(self) -> tuple[dict[str, float], dict[str, Histogram]]:
        """Return the metrics and histograms of the step, and forget them."""
        metrics = self._metrics() if self._squares else {}
        histograms, self._squares, self._histograms = self._histograms, {}, {}
        return metrics, histograms

    def _metrics(self) -> dict[str, float]:
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        for squares in self._squares.values():
            for key, value in squares.items():
                sums[key] = sums[key] + value.cpu()
        norms = {key: float(value) ** 0.5 for key, value in sums.items()}
        clip = min(1.0, self._clip_norm / self._norm_before_clip) if self._clip_norm and self._norm_before_clip else 1.0
        metrics = {}
        for group in dict.fromkeys(key.partition("/")[2] for key in norms):
            after_clip, weight = norms[f"grad/{group}"], norms[f"weight/{group}"]
            metrics[f"norm_pre_clip/{group}"] = after_clip / clip
            metrics[f"norm_post_clip/{group}"] = after_clip
            metrics[f"weight_norm/{group}"] = weight
            metrics[f"update_ratio/{group}"] = norms[f"update/{group}"] / (weight + _TINY)
        return metrics


def _squares(name: str, what: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield sums of squares by parameter group; one tensor holds both directions of an LSTM layer."""
    parts = name.split(".")
    if parts[0] == "layers":
        for d, direction in enumerate(("forward", "backward")):
            yield f"{what}/layer{int(parts[1]) + 1}.{direction}", tensor[d].double().square().sum()
    else:
        group = ".".join(parts[:2]) if parts[0] == "encoder" else parts[0]
        yield f"{what}/{group}", tensor.double().square().sum()


def _norm_histogram(vectors: Tensor) -> Histogram:
    """Return the histogram of the norms of vectors (T, B, P), without norms that are not finite."""
    norms = torch.linalg.vector_norm(vectors.detach()[:, :_HISTOGRAM_LANES].float(), dim=-1)
    norms = norms[norms.isfinite()]
    low, high = (float(norms.min()), float(norms.max())) if norms.numel() else (0.0, 0.0)
    high = max(high, low + _TINY)
    return torch.histc(norms, _BINS, low, high).cpu().numpy(), np.linspace(low, high, _BINS + 1)
