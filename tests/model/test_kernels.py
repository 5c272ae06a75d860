"""The GPU path against plain torch in float64: on a GPU if there is one, otherwise interpreted on the CPU."""

import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.config.schema import ConfigError
from pipeline.model.backend import device as gpu
from pipeline.model.backend.lstmp_cuda import KeptBuffers
from pipeline.model.bilm import DropoutKey
from pipeline.model.dropout import lane_dropout, mix32
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMP, LSTMPState
from pipeline.model.softmax import Candidates, Softmax, find_places
from pipeline.train.step.optimizer import RowOptimizer, adagrad, adam
from tests.model import tiny
from tests.model.lstmp_layers import inputs_of, layer_of, results_and_gradients
from tests.model.softmax_tables import candidates_of, gradients_of

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if os.environ.get("CI") != "true" and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is missing: pip install -e '.[test]'", allow_module_level=True)

# Relative to the largest value, against float64. The interpreter rounds to bf16 towards zero: the error doubles.
TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 0.05}


def assert_near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    error = (ours.double().cpu() - exact.double().cpu()).abs().max().item()
    assert error <= TOLERANCE[dtype] * max(3e-3, exact.abs().max().item()), error


def assert_mostly_near(ours: Tensor, exact: Tensor) -> None:
    assert (ours.double().cpu() - exact).norm() <= 0.25 * exact.norm() + 1e-3


def twins(cell_clip: float | None, proj_clip: float | None, sizes: tuple[int, int, int]) -> tuple[LSTMP, LSTMP]:
    """Return one layer for the kernels, and the same layer in float64 on the CPU for plain torch."""
    layer = layer_of(cell_clip, proj_clip, torch.float32, sizes)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.3)  # small weights, so that an error does not grow from step to step
    return layer.to(DEVICE), copy.deepcopy(layer).cpu().double()


def fused(layer: LSTMP, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    inputs = tuple(value.detach().to(DEVICE).requires_grad_() for value in inputs)
    autocast = torch.autocast(DEVICE, torch.bfloat16, enabled=dtype is torch.bfloat16)
    with gpu.using("kernels" if DEVICE == "cpu" else "graphs"), autocast:
        return results_and_gradients(layer, layer, inputs)


def in_float64(layer: LSTMP, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with gpu.using("plain"):
        inputs = tuple(value.detach().cpu().double().requires_grad_() for value in inputs)
        return results_and_gradients(layer, layer, inputs)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", [(5, 7, 3), (16, 64, 16), (1, 1, 1)])
@pytest.mark.parametrize(("steps", "lanes"), [(6, 3), (1, 1)])
@pytest.mark.parametrize(("cell_clip", "proj_clip"), [(None, None), (0.1, 0.05)])
def test_results_and_gradients_are_close_to_those_in_float64(
    cell_clip: float | None, proj_clip: float | None, steps: int, lanes: int, sizes: tuple[int, int, int],
    dtype: torch.dtype,
) -> None:  # fmt: skip
    """Compare y, the states, and the gradients for the input, both first states and all weights, with active clips."""
    layer, exact = twins(cell_clip, proj_clip, sizes)
    inputs = inputs_of(layer.cpu(), steps, lanes)
    layer.to(DEVICE)
    ours, theirs = fused(layer, inputs, dtype), in_float64(exact, inputs)
    for values, clip in ((theirs[2], cell_clip), (theirs[0], proj_clip)):
        assert sizes[1] < 64 or clip is None or {False, True} == set((values.abs() == clip).flatten().tolist())
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if number < 3 or dtype is torch.float32 or cell_clip is None:
            assert_near(one, other, dtype)
        else:  # a value that rounding moves over a bound gets another gradient
            assert_mostly_near(one, other)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kept_buffers_continue_states_from_window_to_window(dtype: torch.dtype) -> None:
    """One window has another shape. On a GPU the later windows are replayed graphs."""
    layer, exact = twins(0.1, 0.05, (16, 64, 16))
    layer.one_window_at_a_time = True
    _, h, c = inputs_of(exact.float(), 1, 4)
    state, exact_state = (h, c), (h, c)
    exact.double()
    for number, steps in enumerate((5, 5, 5, 5, 3, 5)):
        x = torch.randn(2, steps, 4, 16, generator=torch.Generator().manual_seed(number))
        ours, theirs = fused(layer, (x, *state), dtype), in_float64(exact, (x, *exact_state))
        for one, other in zip(ours, theirs, strict=True):
            if dtype is torch.float32:
                assert_near(one, other, dtype)
            else:
                assert_mostly_near(one, other)
        state, exact_state = (ours[1], ours[2]), (theirs[1], theirs[2])
    graphs = layer._kept.of(layer, 5, 4, dtype).graphs
    assert (graphs is None) == (DEVICE == "cpu")


def test_kept_buffers_hold_only_one_window_and_raise_an_error_for_a_second() -> None:
    layer, _ = twins(None, None, (3, 4, 2))
    x, h, c = (v.detach().to(DEVICE) for v in inputs_of(layer.cpu(), 4, 2))
    layer.to(DEVICE)
    for layer.one_window_at_a_time in (False, True):
        with gpu.using("kernels"):
            first, _ = layer(x, LSTMPState(h, c))
            layer(x, LSTMPState(h, c))
        if layer.one_window_at_a_time:
            with pytest.raises(AssertionError, match="one window under way"):
                first.sum().backward()
        else:
            first.sum().backward()


class Replayed:
    """A stand-in for a CUDA graph of these steps; a wrong one adds something to a buffer."""

    def __init__(self, steps: Callable[[], None], spoils: Tensor | None) -> None:
        self.steps, self.spoils, self.times = steps, spoils, 0

    def replay(self) -> None:
        self.times += 1
        self.steps()
        if self.spoils is not None:
            self.spoils += 1.0


@pytest.mark.parametrize("wrong", ["neither", "forward", "backward"])
def test_a_graph_with_wrong_results_is_detected_and_not_used(wrong: str) -> None:
    layer, exact = twins(0.1, 0.05, (5, 7, 3))
    inputs = inputs_of(layer.cpu(), steps=4, lanes=3)
    layer.to(DEVICE)
    layer.one_window_at_a_time = True
    theirs = in_float64(exact, inputs)
    fused(layer, inputs, torch.float32)
    buffers = layer._kept.of(layer, 4, 3, torch.float32) if DEVICE == "cuda" else layer._kept._buffers
    assert buffers is not None
    graphs = [
        Replayed(buffers._forward_steps, buffers.h if wrong == "forward" else None),
        Replayed(buffers._backward_steps, buffers.dgates if wrong == "backward" else None),
    ]
    buffers.graphs = tuple(graphs)  # type: ignore[assignment]
    buffers.are_graphs_checked = [False, False]
    for window in range(3):
        layer.zero_grad()
        with pytest.warns(UserWarning, match="wrong here") if wrong != "neither" and window == 0 else nullcontext():
            ours = fused(layer, inputs, torch.float32)
        for one, other in zip(ours, theirs, strict=True):
            assert_near(one, other, torch.float32)
    used = {"neither": [3, 3], "forward": [1, 0], "backward": [1, 1]}[wrong]
    assert [graph.times for graph in graphs] == used
    assert (buffers.graphs is None) == (wrong != "neither")


def test_a_copy_of_kept_buffers_is_empty() -> None:
    kept = KeptBuffers()
    kept._key = (1,)
    assert copy.deepcopy(kept)._key == pickle.loads(pickle.dumps(kept))._key == ()


def test_without_gradients_no_buffers_are_kept() -> None:
    layer, exact = twins(0.3, 0.5, (3, 4, 2))
    layer.one_window_at_a_time = True
    x, h, c = (v.detach() for v in inputs_of(layer.cpu(), 4, 2))
    with torch.no_grad(), gpu.using("kernels"):
        y, state = layer.to(DEVICE)(x.to(DEVICE), LSTMPState(h.to(DEVICE), c.to(DEVICE)))
    assert layer._kept._buffers is None
    expected, expected_state = exact(x.double(), LSTMPState(h.double(), c.double()))
    assert_near(y, expected, torch.float32)
    assert_near(state.c, expected_state.c, torch.float32)


def test_a_value_that_is_not_finite_is_not_hidden_by_the_clips() -> None:
    layer, _ = twins(0.3, 0.1, (3, 4, 2))
    x, h, c = (v.detach().to(DEVICE) for v in inputs_of(layer.cpu(), 4, 2))
    layer.to(DEVICE)
    x[0, 1, 0, 0] = float("nan")
    with gpu.using("kernels"):
        y, _ = layer(x, LSTMPState(h, c))
        y.sum().backward()
    assert y[0, 1:, 0].isnan().all() and not y[:, :, 1].isnan().any()
    assert layer.weight_input.grad is not None and layer.weight_input.grad[0].isnan().any()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("number", [12, 39])
def test_sampled_losses_and_gradients_are_close_to_those_in_float64(number: int, dtype: torch.dtype) -> None:
    """Some targets are candidates, and some are not."""
    torch.manual_seed(0)
    softmax = Softmax(40, 16).to(DEVICE)
    exact = copy.deepcopy(softmax).cpu().double()
    y, targets = torch.randn(2, 25, 16), torch.randint(40, (2, 25))
    results = []
    for one, way, device in ((softmax, "kernels", DEVICE), (exact, "plain", "cpu")):
        ids, tries = (part.to(device) for part in candidates_of(2, 40, number))
        own_y = y.to(device, one.weight.dtype).requires_grad_()
        rows = one.touched_rows(find_places(ids, targets.to(device)))
        autocast = torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16 and one is softmax)
        with gpu.using(way), autocast:
            losses = one.sampled_loss(own_y, targets.to(device), Candidates(ids, tries), rows)
        weights = torch.rand(losses.shape, generator=torch.Generator().manual_seed(3)).to(losses)
        results.append([losses, *torch.autograd.grad((losses * weights).sum(), [own_y, rows.weight, rows.bias])])
    for ours, theirs in zip(*results, strict=True):
        assert_near(ours.detach(), theirs.detach(), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_full_losses_over_several_blocks_are_close_to_those_in_float64(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    softmax = Softmax(2500, 16).to(DEVICE)  # a block has at least 1,024 words
    exact = copy.deepcopy(softmax).cpu().double()
    with torch.no_grad():
        softmax.bias.copy_(torch.randn(2500))
        exact.bias.copy_(softmax.bias)
    y, targets = torch.randn(9, 16), torch.randint(2500, (9,))
    from pipeline.model import softmax as module

    blocks = dict.fromkeys(module._BLOCK_ELEMENTS, 1)
    with pytest.MonkeyPatch.context() as patch, gpu.using("kernels"):
        patch.setattr(module, "_BLOCK_ELEMENTS", blocks)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype is torch.bfloat16), torch.no_grad():
            ours = softmax.full_loss(y.to(DEVICE), targets.to(DEVICE))
    assert_near(ours, exact.full_loss(y.double(), targets).detach(), dtype)


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (2, 2, 3, 7), (2, 1, 1, 1)])
@pytest.mark.parametrize("first_lane", [0, 3, (1 << 31) - 5, 1 << 40])
def test_dropout_equals_that_of_plain_torch_bitwise(shape: tuple[int, ...], first_lane: int) -> None:
    """The first lanes include some whose counters do not fit into 32 bits. Compare forward and backward."""
    results = []
    for way, device in (("kernels", DEVICE), ("plain", "cpu")):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
        with gpu.using(way):
            y = lane_dropout(x, 0.3, mix32(1, 2, 3), first_lane)
            (grad,) = torch.autograd.grad(y, x, torch.ones_like(y).cumsum(-1).transpose(1, 2).contiguous().view_as(y))
        results.append((y.detach().cpu(), grad.cpu()))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
    assert x.numel() < 20 or 0.1 < (y == 0).float().mean() < 0.6


def by_adam(parameter: torch.nn.Parameter) -> RowOptimizer:
    return RowOptimizer([adam([parameter], rate=0.01, beta1=0.9, beta2=0.999, eps=1e-8)])


def by_adagrad(parameter: torch.nn.Parameter) -> RowOptimizer:
    return RowOptimizer([adagrad([parameter], rate=0.2, initial_accumulator=1.0)])


def gradient_of_step(step: int, shape: tuple[int, ...], is_sparse: bool) -> Tensor:
    """Return a gradient; a sparse one has other rows in each step."""
    generator = torch.Generator().manual_seed(step)
    if not is_sparse:
        return torch.randn(shape, generator=generator)
    ids = torch.randperm(shape[0], generator=generator)[:3].sort().values
    values = torch.randn(3, *shape[1:], generator=generator)
    return torch.sparse_coo_tensor(ids[None], values, shape, is_coalesced=True, check_invariants=True)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("shape", [(7, 1000), (7,)])
@pytest.mark.parametrize("make", [by_adagrad, by_adam])
def test_updates_equal_those_of_plain_torch(
    make: Callable[[torch.nn.Parameter], RowOptimizer], shape: tuple[int, ...], is_sparse: bool
) -> None:
    """A bad step, in which gradients are not finite, changes nothing. Plain torch does not get that step."""
    weight, results = torch.randn(shape), []
    for way, device in (("kernels", DEVICE), ("plain", "cpu")):
        parameter = torch.nn.Parameter(weight.to(device, copy=True))
        optimizer = make(parameter)
        with gpu.using(way):
            for step in range(6):
                grad = gradient_of_step(step, shape, is_sparse).to(device)
                if way == "kernels" and step in (0, 1, 3):  # bad steps, which plain torch does not get
                    parameter.grad = grad * float("nan")
                    optimizer.step(good=torch.tensor(0, dtype=torch.int32, device=device))
                is_asked = way == "kernels" and step % 2
                parameter.grad = grad
                optimizer.step(good=torch.tensor(1, dtype=torch.int32, device=device) if is_asked else None)
        results.append(
            {"weight": parameter.detach().cpu()} | {k: v.cpu() for k, v in optimizer.state[parameter].items()}
        )
    ours, theirs = results
    assert ours.keys() == theirs.keys() and not torch.equal(ours["weight"], weight)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_a_whole_step_equals_that_of_plain_torch_for_any_number_of_words() -> None:
    """Compare losses and all gradients in float32, with dropout, over two windows with different numbers of words."""
    torch.manual_seed(0)
    config = tiny.config(lstm_dim=16, projection_dim=8, dropout=0.1, cell_clip=0.5, proj_clip=0.2)
    bilm = LanguageModel(config, 50)
    results: dict[str, list[Tensor]] = {}
    for way in ("kernels", "plain"):
        one = copy.deepcopy(bilm).to(DEVICE if way == "kernels" else "cpu")
        device, found = one.device, []
        states = one.initial_states(4)
        for number, words in enumerate((tiny.random_words(5, 4), [[["the", "cat", "the", "cat"]] * 5] * 2)):
            window = tiny.window(words)
            window = window._replace(characters=window.characters.to(device), word_index=window.word_index.to(device))
            targets = tiny.random_targets(50, 5, 4).flatten(1).to(device)
            candidates = Candidates(*(part.to(device) for part in candidates_of(1, 50, 20)))
            rows = one.softmax.touched_rows(find_places(candidates.ids, targets))
            with gpu.using(way):
                layers, states = one(window, states, DropoutKey(1, number, 0))
                losses = one.softmax.sampled_loss(layers[-1].flatten(1, 2), targets, candidates, rows)
                wanted = [p for name, p in one.named_parameters() if not name.startswith("softmax")]
                found += [losses.detach(), *gradients_of(losses.cpu(), [*wanted, rows.weight, rows.bias])]
            states = [state.detach() for state in states]
        results[way] = found
    for ours, theirs in zip(*results.values(), strict=True):
        assert_near(ours, theirs, torch.float32)


def test_an_unknown_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMO_GPU", "grphs")
    gpu._from_environment.cache_clear()
    with pytest.raises(ConfigError, match="ELMO_GPU='grphs' must be one of graphs, kernels, plain"):
        gpu._from_environment()


_COMPILE = """
import subprocess
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pipeline.model.backend import triton_kernels, triton_optimizers, triton_softmax

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
OTHERS = {"hits": "*i64", "ids": "*i64", "good": "*i32", "threshold": "i32", "key": "i32", "first_lane": "i64"}
OTHERS |= dict.fromkeys("clip scale lr beta2 rest1 rest2 log1 log2 eps".split(), "fp32")
WIDE = {"bias", "c_prev", "c", "dc", "dy", "top", "total", "normaliser", "weight", "accumulator", "grad",
        "mean", "square", "steps", "x", "y"}
NAMES = "_cell_forward _cell_backward _clip_backward _add_exponentials _to_probabilities".split()
NAMES += "_dropout _adagrad _adam".split()
KERNELS = vars(triton_kernels) | vars(triton_softmax) | vars(triton_optimizers)
NUMBERS = {"hidden", "lanes", "width", "number", "size", "places"}

for low, flags in (("*bf16", 0), ("*bf16", 1), ("*fp32", 1)):
    for name in NAMES:
        kernel, signature, constants, divisible = KERNELS[name], {}, {}, {}
        for place, parameter in enumerate(p.name for p in kernel.params):
            if parameter.isupper():
                signature[parameter], constants[(place,)] = "constexpr", flags if parameter.startswith("HAS_") else 1024
            elif parameter in NUMBERS or parameter.endswith("_stride"):
                signature[parameter], divisible[(place,)] = "i32", [["tt.divisibility", 16]]
            else:
                signature[parameter] = OTHERS.get(parameter, "*fp32" if parameter in WIDE else low)
                if signature[parameter].startswith("*"):
                    divisible[(place,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constexprs=constants, attrs=divisible)
        code = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm
        is_gathered = flags and name in ("_adagrad", "_adam")
        assert is_gathered or ".v4." in code["ptx"], f"{name} in {low}: narrow accesses"
        Path("kernel.cubin").write_bytes(code["cubin"])
        usage = subprocess.run([CUOBJDUMP, "-res-usage", "kernel.cubin"], capture_output=True, text=True, check=True)
        assert "STACK:0" in usage.stdout and "LOCAL:0" in usage.stdout, f"{name} in {low}: registers are spilled"
        print(name, low)
"""


def test_the_kernels_compile_for_an_h200_with_wide_accesses(tmp_path: Path) -> None:
    """This needs no GPU, and the compiler refuses code that the interpreter accepts."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 24
