"""The cache holds the biLM's own vectors, detects another model or text, and works with kills and other processes."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.dataset.files import DataError
from pipeline import Elmo
from pipeline.config.schema import ConfigError
from pipeline.model.formats.pretrained import save_pretrained
from pipeline.tasks import layer_cache
from pipeline.tasks.layer_cache import LayerCache
from tests.model import tiny

TEXTS = [
    ("the", "Zürich", "naïve"), ("a",), (), ("漢字", "😀", "a", "the", "y" * 60), ("the", "Zürich", "naïve"),
    ("<S>", "a b", "\u2028"), ("a", "the", "a", "the"),
]  # fmt: skip
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


def save(folder: Path, seed: int = 0, scale: float = 1.0) -> Path:
    bilm = tiny.bilm(tiny.config(), seed=seed).core()
    with torch.no_grad():
        bilm.encoder.char_embed.mul_(scale)
    save_pretrained(folder, bilm)
    return folder


def open_here(tmp_path: Path, model: Path, texts: list[tuple[str, ...]] = TEXTS, dtype: str = "float32") -> LayerCache:
    return LayerCache.open_or_build(tmp_path / "cache", model, texts, dtype)  # type: ignore[arg-type]


def files(tmp_path: Path, suffix: str) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").iterdir() if path.name.endswith(suffix))


def test_the_layers_equal_those_of_elmo_bitwise(tmp_path: Path, model: Path) -> None:
    cache = open_here(tmp_path, model)
    expected = Elmo.from_pretrained(model).embed(TEXTS)
    for text, layers in zip(TEXTS, expected, strict=True):
        assert cache.layers(text).shape == (cache.num_layers, len(text), cache.width)
        np.testing.assert_array_equal(cache.layers(text), layers.numpy())
    cache.verify()


def test_float16_holds_the_rounded_layers_in_half_the_bytes(tmp_path: Path, model: Path) -> None:
    whole, half = open_here(tmp_path, model), open_here(tmp_path, model, dtype="float16")
    for text in TEXTS:
        np.testing.assert_array_equal(half.layers(text), whole.layers(text).astype(np.float16))
    assert 2 * half.path.stat().st_size == whole.path.stat().st_size > 0


def test_layers_are_read_only_views_of_a_file_that_holds_each_text_once(tmp_path: Path, model: Path) -> None:
    cache = open_here(tmp_path, model)
    first, again = cache.layers(TEXTS[0]), cache.layers(TEXTS[4])
    assert np.shares_memory(first, again) and not first.flags.owndata and not first.flags.writeable
    words = sum(len(text) for text in set(TEXTS))
    assert cache.path.stat().st_size == words * cache.num_layers * cache.width * 4
    with pytest.raises(KeyError, match="not among"):
        cache.layers(("never", "seen"))


def test_a_second_opening_computes_nothing_for_any_order_of_texts(tmp_path: Path, model: Path) -> None:
    before = open_here(tmp_path, model)
    written = [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in files(tmp_path, "")]
    again = open_here(tmp_path, model, [*reversed(TEXTS), TEXTS[1]])
    assert [(path.name, path.stat().st_ino, path.stat().st_mtime_ns) for path in files(tmp_path, "")] == written
    assert all(np.array_equal(again.layers(text), before.layers(text)) for text in TEXTS)


@pytest.mark.parametrize("change", ["weights", "texts", "dtype"])
def test_another_model_text_or_type_gets_another_file(tmp_path: Path, model: Path, change: str) -> None:
    before = open_here(tmp_path, model)
    other = save(tmp_path / "other", seed=1) if change == "weights" else model
    texts = [*TEXTS, ("more",)] if change == "texts" else TEXTS
    after = open_here(tmp_path, other, texts, "float16" if change == "dtype" else "float32")
    assert after.path != before.path and before.path.exists()
    expected = Elmo.from_pretrained(other).embed([TEXTS[0]])[0].numpy()
    np.testing.assert_allclose(after.layers(TEXTS[0]), expected, rtol=1e-3, atol=1e-3)


def test_a_pickled_cache_maps_the_file_again(tmp_path: Path, model: Path) -> None:
    cache = open_here(tmp_path, model)
    back = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) < 3000
    assert np.array_equal(back.layers(TEXTS[3]), cache.layers(TEXTS[3]))


def test_no_texts_and_only_empty_texts_give_an_empty_cache(tmp_path: Path, model: Path) -> None:
    open_here(tmp_path, model, []).verify()
    assert open_here(tmp_path, model, [()]).layers(()).shape[1] == 0


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "a flipped bit": lambda layers, _: _flip(layers),
    "a cut": lambda layers, _: os.truncate(layers, layers.stat().st_size - 4),
    "a longer file": lambda layers, _: layers.write_bytes(layers.read_bytes() + b"0000"),
    "no layers": lambda layers, _: layers.unlink(),
    "no JSON": lambda _, record: record.write_text("{"),
    "another record": lambda _, record: record.write_text(record.read_text().replace("float32", "float16")),
    "a checksum less": lambda _, record: record.write_text(
        json.dumps(json.loads(record.read_text()) | {"checksums": []})
    ),
    "an absurd width": lambda _, record: record.write_text(
        json.dumps(json.loads(record.read_text()) | {"width": 10**9})
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cache_is_refused_with_a_remedy_that_works(tmp_path: Path, model: Path, kind: str) -> None:
    cache = open_here(tmp_path, model)
    expected = [cache.layers(text).copy() for text in TEXTS]
    (record,) = files(tmp_path, ".json")
    DAMAGE[kind](cache.path, record)
    with pytest.raises(
        DataError, match=rf"is damaged \(.*\); remove {record}, and the layers are computed again"
    ) as caught:
        open_here(tmp_path, model)
    assert "\n" not in str(caught.value)
    record.unlink()
    again = open_here(tmp_path, model)
    assert all(np.array_equal(again.layers(text), layers) for text, layers in zip(TEXTS, expected, strict=True))


def test_verify_finds_damage_in_the_middle(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_cache, "_BLOCK_WORDS", 4)
    cache = open_here(tmp_path, model)
    assert len(cache.record.checksums) == 4
    _flip(cache.path)
    with pytest.raises(DataError, match="checksum of block"):
        open_here(tmp_path, model).verify()


def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    bilm = tiny.bilm(tiny.config(num_highway=0)).core()
    with torch.no_grad():
        for parameter in bilm.encoder.parameters():
            parameter.mul_(1e3)
    save_pretrained(tmp_path / "model", bilm)
    open_here(tmp_path, tmp_path / "model")
    with pytest.raises(ConfigError, match="does not fit float16; use float32"):
        open_here(tmp_path, tmp_path / "model", dtype="float16")


def test_layers_that_do_not_fit_the_disk_are_refused_before_the_work(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ConfigError, match=r"GB free, but the biLM's layers need .* use float16"):
        open_here(tmp_path, model)


def _build_until(folder: Path, model: Path, block: int) -> None:
    """Compute in blocks of 4 words, and kill the process after it has written a block but not recorded it."""
    torch.set_num_threads(1)
    write, written = layer_cache._write_block, 0

    def write_and_die(*args: object) -> str:
        nonlocal written
        checksum = write(*args)  # type: ignore[arg-type]
        written += 1
        if written == block:
            os.kill(os.getpid(), signal.SIGKILL)
        return checksum

    layer_cache._BLOCK_WORDS, layer_cache._write_block = 4, write_and_die  # type: ignore[assignment]
    LayerCache.open_or_build(folder, model, TEXTS, "float32")


def kill_in(tmp_path: Path, model: Path, block: int) -> None:
    child = FORK.Process(target=_build_until, args=(tmp_path / "cache", model, block))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not files(tmp_path, ".layers") and files(tmp_path, ".part")


@pytest.mark.parametrize("block", [1, 3])
def test_a_killed_computation_resumes_and_gives_the_same_file(
    tmp_path: Path, model: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in(tmp_path, model, block)
    monkeypatch.setattr(layer_cache, "_BLOCK_WORDS", 4)
    written = _count_blocks(monkeypatch)
    resumed = open_here(tmp_path, model)
    assert len(written) == 4 - (block - 1)  # the last block before the kill was not recorded
    whole = LayerCache.open_or_build(tmp_path / "whole", model, TEXTS, "float32")
    assert resumed.path.read_bytes() == whole.path.read_bytes() and resumed.record == whole.record
    assert not files(tmp_path, ".part") and not files(tmp_path, ".part.json")


def test_damaged_blocks_of_a_killed_computation_are_computed_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in(tmp_path, model, 3)
    (part,) = files(tmp_path, ".part")
    part.write_bytes(bytes(part.stat().st_size))
    monkeypatch.setattr(layer_cache, "_BLOCK_WORDS", 4)
    open_here(tmp_path, model).verify()


def _count_blocks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    written: list[None] = []
    write = layer_cache._write_block

    def counted(*args: object) -> str:
        written.append(None)
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(layer_cache, "_write_block", counted)
    return written


def _open_in_child(folder: Path, model: Path, log: Path) -> None:
    torch.set_num_threads(1)
    write = layer_cache._write_block

    def slow(*args: object) -> str:
        time.sleep(0.3)  # so that the others start while this process computes
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return write(*args)  # type: ignore[arg-type]

    layer_cache._write_block = slow  # type: ignore[assignment]
    LayerCache.open_or_build(folder, model, TEXTS, "float32").verify()


def test_only_one_of_several_processes_computes_the_layers(tmp_path: Path, model: Path) -> None:
    log = tmp_path / "log"
    children = [FORK.Process(target=_open_in_child, args=(tmp_path / "cache", model, log)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(log.read_text().split()) == 1 and len(files(tmp_path, ".layers")) == 1
