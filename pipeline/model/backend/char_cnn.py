"""Character convolutions and their maximum over the windows of a word: by tables on a CPU, by matmul on a GPU.

By tables: a filter's value at a window is a sum of contributions, one for each character at its place in the window.
There are few characters, so all contributions are computed once, as rows of a table, and a window adds `width` rows: a
sixteenth of the operations of a convolution over vectors of 16 values. Each maximum has a gradient at one window only,
so backward adds one row per word and filter, and does not touch the other windows. torch's embedding_bag sums the rows.

By matmul: all filters are one matrix, narrow filters padded with zeros, and windows are the rows of another matrix. For
the paper's filters this takes a sixth more operations than seven convolutions, in far fewer and larger launches.
Backward puts the gradient of each maximum at its window and takes two matrix products.

Both functions take words in groups with the same number of windows, (words, windows) each, one group after the other.
Windows that reach beyond the word's characters do not count.
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

_VALUES_AT_ONCE = 1 << 20  # values of windows computed at once, so that they are in the cache for the maximum


def widest(convolutions: list[nn.Conv1d]) -> int:
    """Return the greatest width of a filter, in characters."""
    return max(convolution.kernel_size[0] for convolution in convolutions)


def convolve_by_matmul(words: Tensor, groups: Groups, embed: Tensor, convolutions: list[nn.Conv1d]) -> Tensor:
    """Return (U, filters) for character ids (U, C), embed (characters, D), convolutions from D. No double backward."""
    if not len(words):
        return embed.new_zeros(0, sum(convolution.out_channels for convolution in convolutions))
    filters, width = _filters(convolutions), widest(convolutions)
    weights = _weights(convolutions).flatten(1)
    longest = max(windows for number, windows in groups if number)
    cropped = F.pad(words, (0, width - 1), value=PAD)[:, : longest + width - 1]
    vectors = F.embedding(cropped.int(), embed).split([number for number, _ in groups])
    maxima = [
        _MaxOfMatmul.apply(
            group[:, : windows + width - 1].unfold(1, width, 1).flatten(2), weights, words.shape[1], filters
        )
        for group, (number, windows) in zip(vectors, groups, strict=True)
        if number
    ]
    return torch.cat(maxima) + _biases(convolutions)


class _MaxOfMatmul(torch.autograd.Function):
    """Map windows (u, windows, D * W), W the greatest width, and weights (F, D * W) to maxima (u, F)."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, weights: Tensor, length: int, filters: list[tuple[int, int]]) -> Tensor:
        dtype = compute_dtype(windows)
        with torch.autocast(windows.device.type, enabled=False):
            low, weights = windows.to(dtype), weights.to(dtype)
            values = torch.mm(low.flatten(0, 1), weights.t()).unflatten(0, low.shape[:2])
            if values.shape[1] + max(width for _, width in filters) - 1 > length:
                _mask_beyond(length, values, filters)
            maxima, places = values.max(1)
        ctx.save_for_backward(low, weights, places.short())
        ctx.dtype = windows.dtype
        return maxima

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, weights, places = ctx.saved_tensors
        spread = low.new_zeros(*low.shape[:2], len(weights))
        spread.scatter_(1, places.long().unsqueeze(1), grads[0].to(low.dtype).unsqueeze(1))
        rows = spread.flatten(0, 1)
        dweights = torch.mm(rows.t(), low.flatten(0, 1)).to(ctx.dtype)
        return torch.mm(rows, weights).view_as(low).to(ctx.dtype), dweights, None, None


def convolve_by_tables(words: Tensor, groups: Groups, embed: Tensor, convolutions: list[nn.Conv1d]) -> Tensor:
    """Return what convolve_by_matmul returns, by sums of table rows."""
    if not len(words):
        return embed.new_zeros(0, sum(convolution.out_channels for convolution in convolutions))
    weights = _weights(convolutions).permute(2, 1, 0).contiguous()
    with torch.autocast(embed.device.type, enabled=False):  # a narrower type would not make sums of rows faster
        maxima = _MaxOfTableSums.apply(embed, weights, words, groups, _filters(convolutions))
    return maxima + _biases(convolutions)


def _filters(convolutions: list[nn.Conv1d]) -> list[tuple[int, int]]:
    """Return (number, width) of each convolution."""
    return [(convolution.out_channels, convolution.kernel_size[0]) for convolution in convolutions]


def _weights(convolutions: list[nn.Conv1d]) -> Tensor:
    """Return (F, D, W): all filters, narrow ones padded with zeros at the end."""
    width = widest(convolutions)
    return torch.cat([F.pad(c.weight, (0, width - c.kernel_size[0])) for c in convolutions])


def _biases(convolutions: list[nn.Conv1d]) -> Tensor:
    return torch.cat([convolution.bias for convolution in convolutions if convolution.bias is not None])


class _MaxOfTableSums(torch.autograd.Function):
    """Map embed (characters, D) and weights (W, D, F), W the greatest width, to maxima (U, F).

    filters: (number, width) of each convolution.
    """

    @staticmethod
    def forward(
        ctx: Any, embed: Tensor, weights: Tensor, words: Tensor, groups: Groups, filters: list[tuple[int, int]]
    ) -> Tensor:
        (width, _, num_filters), length = weights.shape, words.shape[1]
        table, rows_of = _table(embed, weights, words)
        characters = F.pad(words, (0, width - 1), value=PAD).int().unfold(1, width, 1)
        ids, maxima, places = [], [], []
        for group, (_, windows) in zip(characters.split([number for number, _ in groups]), groups, strict=True):
            for block in group[:, :windows].split(max(1, _VALUES_AT_ONCE // (windows * num_filters))):
                ids.append(block.flatten(0, 1))
                values = F.embedding_bag(rows_of(ids[-1]), table, mode="sum").unflatten(0, (-1, windows))
                _mask_beyond(length, values, filters)
                maximum, place = _maximum(values)
                maxima.append(maximum)
                places.append(place)
        numbers, windows_of_groups = torch.tensor(groups).unbind(1)
        windows_of_words = windows_of_groups.repeat_interleave(numbers)
        ctx.save_for_backward(embed, weights, torch.cat(ids), torch.cat(places), windows_of_words)
        return torch.cat(maxima)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        embed, weights, ids, places, windows = ctx.saved_tensors
        grad, (width, dim, filters) = grads[0], weights.shape
        rows = places + (windows.cumsum(0) - windows).int().unsqueeze(1)
        starts = torch.arange(0, rows.numel(), len(rows))
        dweights = _sum_rows(rows.t(), F.embedding(ids, embed).flatten(1), starts, grad.t())  # (F, W * D)
        # The gradient of the windows: sort the filters of each word by the window of their maximum. NumPy sorts 16-bit
        # integers by radix.
        order = torch.from_numpy(np.argsort(places.short().numpy(), axis=1, kind="stable"))
        found = torch.bincount(rows.flatten(), minlength=len(ids))
        by_filter = weights.flatten(0, 1).t().contiguous()
        dvectors = _sum_rows(order, by_filter, found.cumsum(0) - found, grad.gather(1, order))  # (windows, W * D)
        dembed = torch.zeros_like(embed).index_add_(0, ids.flatten(), dvectors.view(-1, dim))
        return dembed, dweights.view(filters, width, dim).permute(1, 2, 0), None, None, None


def _table(embed: Tensor, weights: Tensor, words: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the table (W * characters of words, F), and a function from windows (n, W) to the rows to be added."""
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


def _mask_beyond(length: int, values: Tensor, filters: list[tuple[int, int]]) -> None:
    start = 0
    for number, width in filters:
        values[:, length - width + 1 :, start : start + number] = -torch.inf
        start += number
