"""The character CNN: the maximum of every filter over the windows of a word, by tables or by products.

By tables, on a CPU: a filter's value at a window is the sum of what each character gives at its place. There are few
characters, so what they give is computed once, as rows of a table, and a window adds up `width` rows of it: a
sixteenth of the operations of a convolution over vectors of 16 numbers. The gradient of a maximum touches one window a
word and filter, so backward adds up that many rows and never sees the other windows. Sums of rows are torch's
embedding_bag.

By products, on a GPU: all filters are one matrix, narrow ones filled up with zeros, and windows are the rows of
another: for the paper's filters a sixth more operations than seven convolutions, in far fewer and larger launches.
Backward puts the gradient of each maximum at its window, and is two products.

Both ways take words in groups of equal numbers of windows, (words, windows) each, one group behind the other. A window
that reaches beyond the word's characters is none.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.characters import PAD
from pipeline.model.backend.matmul import compute_dtype

Groups = list[tuple[int, int]]

_VALUES_AT_ONCE = 1 << 20  # of windows, which are still in a cache when their maximum is taken


def widest(convolutions: list[nn.Conv1d]) -> int:
    """The greatest width of a filter, in characters."""
    return max(convolution.kernel_size[0] for convolution in convolutions)


def peaks_by_products(words: Tensor, groups: Groups, embed: Tensor, convolutions: list[nn.Conv1d]) -> Tensor:
    """words (U, C) of character ids, embed (characters, D), convolutions from D -> (U, filters); no double backward."""
    if not len(words):
        return embed.new_zeros(0, sum(convolution.out_channels for convolution in convolutions))
    filters, width = _filters(convolutions), widest(convolutions)
    weights = _weights(convolutions).flatten(1)
    longest = max(windows for number, windows in groups if number)
    cropped = F.pad(words, (0, width - 1), value=PAD)[:, : longest + width - 1]
    vectors = F.embedding(cropped.int(), embed).split([number for number, _ in groups])
    peaks = [
        _Maxima.apply(
            of_group[:, : windows + width - 1].unfold(1, width, 1).flatten(2), weights, words.shape[1], filters
        )
        for of_group, (number, windows) in zip(vectors, groups, strict=True)
        if number
    ]
    return torch.cat(peaks) + _biases(convolutions)


class _Maxima(torch.autograd.Function):
    """Windows (u, windows, D * W), W the greatest width, and weights (F, D * W) to (u, F)."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, weights: Tensor, length: int, filters: list[tuple[int, int]]) -> Tensor:
        dtype = compute_dtype(windows)
        with torch.autocast(windows.device.type, enabled=False):
            low, weights = windows.to(dtype), weights.to(dtype)
            values = torch.mm(low.flatten(0, 1), weights.t()).unflatten(0, low.shape[:2])
            if values.shape[1] + max(width for _, width in filters) - 1 > length:
                _leave_out_beyond(length, values, filters)
            peaks, places = values.max(1)
        ctx.save_for_backward(low, weights, places.short())
        ctx.dtype = windows.dtype
        return peaks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, weights, places = ctx.saved_tensors
        spread = low.new_zeros(*low.shape[:2], len(weights))
        spread.scatter_(1, places.long().unsqueeze(1), grads[0].to(low.dtype).unsqueeze(1))
        rows = spread.flatten(0, 1)
        dweights = torch.mm(rows.t(), low.flatten(0, 1)).to(ctx.dtype)
        return torch.mm(rows, weights).view_as(low).to(ctx.dtype), dweights, None, None


def peaks_by_tables(words: Tensor, groups: Groups, embed: Tensor, convolutions: list[nn.Conv1d]) -> Tensor:
    """As peaks_by_products."""
    if not len(words):
        return embed.new_zeros(0, sum(convolution.out_channels for convolution in convolutions))
    weights = _weights(convolutions).permute(2, 1, 0).contiguous()
    with torch.autocast(embed.device.type, enabled=False):  # sums of rows, which no narrower type would speed up
        peaks = _Peaks.apply(embed, weights, words, groups, _filters(convolutions))
    return peaks + _biases(convolutions)


def _filters(convolutions: list[nn.Conv1d]) -> list[tuple[int, int]]:
    """(number, width) of each convolution."""
    return [(convolution.out_channels, convolution.kernel_size[0]) for convolution in convolutions]


def _weights(convolutions: list[nn.Conv1d]) -> Tensor:
    """(F, D, W): narrow filters with zeros behind."""
    width = widest(convolutions)
    return torch.cat([F.pad(c.weight, (0, width - c.kernel_size[0])) for c in convolutions])


def _biases(convolutions: list[nn.Conv1d]) -> Tensor:
    return torch.cat([convolution.bias for convolution in convolutions if convolution.bias is not None])


class _Peaks(torch.autograd.Function):
    """embed (characters, D) and weights (W, D, F), W the greatest width, to (U, F). filters: (number, width) each."""

    @staticmethod
    def forward(
        ctx: Any, embed: Tensor, weights: Tensor, words: Tensor, groups: Groups, filters: list[tuple[int, int]]
    ) -> Tensor:
        (width, _, num_filters), length = weights.shape, words.shape[1]
        table, rows_of = _table(embed, weights, words)
        characters = F.pad(words, (0, width - 1), value=PAD).int().unfold(1, width, 1)
        ids, peaks, places = [], [], []
        for group, (_, windows) in zip(characters.split([number for number, _ in groups]), groups, strict=True):
            for block in group[:, :windows].split(max(1, _VALUES_AT_ONCE // (windows * num_filters))):
                ids.append(block.flatten(0, 1))
                values = F.embedding_bag(rows_of(ids[-1]), table, mode="sum").unflatten(0, (-1, windows))
                _leave_out_beyond(length, values, filters)
                peak, place = _maximum(values)
                peaks.append(peak)
                places.append(place)
        numbers, windows_of_groups = torch.tensor(groups).unbind(1)
        windows_of_words = windows_of_groups.repeat_interleave(numbers)
        ctx.save_for_backward(embed, weights, torch.cat(ids), torch.cat(places), windows_of_words)
        return torch.cat(peaks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        embed, weights, ids, places, windows = ctx.saved_tensors
        grad, (width, dim, filters) = grads[0], weights.shape
        rows = places + (windows.cumsum(0) - windows).int().unsqueeze(1)
        starts = torch.arange(0, rows.numel(), len(rows))
        dweights = _sum_rows(rows.t(), F.embedding(ids, embed).flatten(1), starts, grad.t())  # (F, W * D)
        # Now for each window the filters that have their maximum there. NumPy sorts 16 bits by radix.
        order = torch.from_numpy(np.argsort(places.short().numpy(), axis=1, kind="stable"))
        found = torch.bincount(rows.flatten(), minlength=len(ids))
        by_filter = weights.flatten(0, 1).t().contiguous()
        dvectors = _sum_rows(order, by_filter, found.cumsum(0) - found, grad.gather(1, order))  # (windows, W * D)
        dembed = torch.zeros_like(embed).index_add_(0, ids.flatten(), dvectors.view(-1, dim))
        return dembed, dweights.view(filters, width, dim).permute(1, 2, 0), None, None, None


def _table(embed: Tensor, weights: Tensor, words: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(W * characters of words, F): what each gives the filters at each place; and which rows windows (n, W) add up."""
    is_there = torch.zeros(len(embed), dtype=torch.bool)
    is_there[words.flatten().long()] = True
    is_there[PAD] = True  # windows may reach beyond the words
    table = torch.matmul(embed[is_there], weights)
    number = is_there.cumsum(0).int() - 1
    first_rows = torch.arange(len(table), dtype=torch.int32) * table.shape[1]
    return table.flatten(0, 1), lambda windows: number[windows] + first_rows


def _sum_rows(rows: Tensor, table: Tensor, starts: Tensor, scales: Tensor) -> Tensor:
    """(len(starts), columns): from each start to the next the sum of table[row] * scale. int64 would be far slower."""
    return F.embedding_bag(rows.int().flatten(), table, starts.int(), mode="sum", per_sample_weights=scales.flatten())


def _maximum(values: Tensor) -> tuple[Tensor, Tensor]:
    """(u, windows, F) -> (u, F) and where, int32. As pooling of a channels-last image: max() is far slower."""
    image = values.unsqueeze(2).permute(0, 3, 1, 2)
    peak, place = F.max_pool2d(image, (values.shape[1], 1), return_indices=True)
    return peak.flatten(1), place.flatten(1).int()


def _leave_out_beyond(length: int, values: Tensor, filters: list[tuple[int, int]]) -> None:
    start = 0
    for number, width in filters:
        values[:, length - width + 1 :, start : start + number] = -torch.inf
        start += number
