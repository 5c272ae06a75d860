"""Norms of gradients, weights and updates by parameter group, and histograms of gates and layers, of one step.

These are bilm-tf's norm_pre_clip, norm_post_clip and UPDATE (training.py:572-603, 926-967), by group instead of by
variable. Only the touched rows of the softmax count, as in bilm-tf.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.model.bilm import BiLM
from pipeline.model.lstmp import LSTMP, LSTMPState, input_gates

Histogram = tuple[np.ndarray, np.ndarray]  # counts, and the edges between them

_HISTOGRAM_LANES = 8  # a sample of the batch: the gates of all lanes would be large
_BINS = 32
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
        assert isinstance(layer, LSTMP)
        with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
            x, y = (t[:, :, :_HISTOGRAM_LANES].float() for t in (inputs[0], outputs[0]))
            if depth == 0:
                self._histograms["layer_norm/token"] = _histogram(torch.linalg.vector_norm(x[0], dim=-1))
            for d, direction in enumerate(("forward", "backward")):
                self._histograms[f"layer_norm/{depth + 1}.{direction}"] = _histogram(
                    torch.linalg.vector_norm(y[d], dim=-1)
                )
            h0 = inputs[1].h[:, :_HISTOGRAM_LANES].float()
            for gate, values in gate_values(layer, x, h0, y).items():
                self._histograms[f"gates/{depth + 1}.{gate}"] = _histogram(values, 0.0, 1.0)

    def before_update(self, step: int, norm_before_clip: Tensor) -> None:
        """Keep the clipped gradients' squares, and the weights before the update. A dropped step has no gradients."""
        self._before, self._squares = {}, {}
        if not self.is_due(step):
            return
        self._norm_before_clip = float(norm_before_clip)
        for name, parameter in self._bilm.named_parameters():
            if parameter.grad is None:
                continue
            rows = parameter.grad._indices()[0] if parameter.grad.is_sparse else None
            grad = parameter.grad._values() if parameter.grad.is_sparse else parameter.grad
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


def gate_values(layer: LSTMP, x: Tensor, h0: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the activations of the input, forget and output gates over a window.

    x (2, T, B, D) and y (2, T, B, P): input and output of the layer; h0 (2, B, P): h before the window. y is h, so h
    before each token is known.
    """
    h = torch.cat([h0.unsqueeze(1), y[:, :-1]], dim=1)
    gates = input_gates(x, layer.weight_input.float(), layer.bias, x.dtype)
    gates = gates + torch.matmul(h, layer.weight_recurrent.float().unsqueeze(1))
    i, _, f, o = gates.sigmoid().split(layer.hidden_dim, dim=-1)
    return {"input": i, "forget": f, "output": o}


def _histogram(values: Tensor, low: float | None = None, high: float | None = None) -> Histogram:
    """Return the histogram of the finite values; a step whose loss is not finite is dropped later."""
    values = values[values.isfinite()]
    low = (float(values.min()) if values.numel() else 0.0) if low is None else low
    high = (float(values.max()) if values.numel() else 0.0) if high is None else high
    high = max(high, low + _TINY)
    return torch.histc(values, _BINS, low, high).cpu().numpy(), np.linspace(low, high, _BINS + 1)
