"""ELMo as a layer: the reference's numbers, the same vectors in any batch, mixes, gradients, caches and states."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline import Elmo
from pipeline.config.schema import ConfigError, ModelConfig
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.elmo import representations
from pipeline.model.elmo.scalar_mix import ScalarMix
from pipeline.model.elmo.sentence_batch import group_by_length
from pipeline.model.elmo.sentence_encoder import SentenceEncoder
from pipeline.model.language_model import LanguageModel
from tests.model import tiny
from tests.model.bilm_tf_fixtures import FIXTURES, lists, needs_fixtures
from tests.model.numpy_bilm import NumpyBiLM

SENTENCES = [
    ["the", "Zürich", "漢字"], ["a"], [], ["x" * 1000, "😀", "naïve", "the", ""], ["a", "the"] * 20, ["the", "\ud800a"],
    ["<S>", "a", "</S>"], ["é" * 24, "é" * 25],
]  # fmt: skip


@pytest.fixture(scope="module")
def bilm() -> BiLM:
    return tiny.bilm(tiny.config())


def assert_close(ours: Tensor, expected: Tensor | np.ndarray, atol: float = 1e-6) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(expected), rtol=0, atol=atol, check_dtype=False)


def by_numpy(bilm: BiLM, sentence: list[str]) -> np.ndarray:
    return NumpyBiLM(bilm.state_dict(), bilm.config).layers(sentence)


# The reference


@needs_fixtures
def test_stateful_layers_equal_the_embeddings_that_bilm_tf_expects(reference: BiLM) -> None:
    """The rows of a batch are the lists, as in the reference's own test; the lists have different lengths."""
    import h5py

    elmo = Elmo(reference, layers="top", stateful=True)
    for again in range(2):  # a second time after a reset
        for i in range(max(map(len, lists()))):
            batch = [sentences[i].split() for sentences in lists()]
            layers = elmo(batch, return_layers=True).layers
            assert layers is not None
            for k, words in enumerate(batch):
                with h5py.File(FIXTURES / f"lm_embeddings_{k}.hdf5") as file:
                    expected = np.concatenate(list(file[str(i)][...]), axis=1)
                ours = layers[-1, k, : len(words)].numpy()
                assert np.allclose(ours, expected, atol=1e-6, rtol=1e-5), (again, i, k)
        elmo.reset_states()


@needs_fixtures
def test_stateless_layers_equal_those_of_the_reference(reference: BiLM) -> None:
    import h5py

    sentences = [(f"row{k}/{i}", s.split()) for k, row in enumerate(lists()) for i, s in enumerate(row)]
    found = Elmo(reference).embed([words for _, words in sentences])
    with h5py.File(FIXTURES / "all_layers_f64.hdf5") as file:
        for (name, _), layers in zip(sentences, found, strict=True):
            assert np.allclose(layers.numpy(), file[f"stateless/{name}"][...], atol=1e-6, rtol=1e-5), name


@pytest.mark.parametrize("changes", [{}, {"skip_connections": False, "num_layers": 3, "cell_clip": 0.3}])
def test_layers_equal_those_of_the_slow_model(changes: dict) -> None:
    bilm = tiny.bilm(tiny.config(**changes))
    sentences = [[w.encode("utf-8", "ignore").decode() for w in s] for s in SENTENCES]
    for layers, sentence in zip(Elmo(bilm).embed(sentences), sentences, strict=True):
        if sentence:
            assert_close(layers, by_numpy(bilm, sentence), 2e-6)


# Sentences


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(tiny.SOME_WORDS), max_size=12), min_size=1, max_size=12), st.randoms())
def test_a_sentence_has_the_same_vectors_in_any_batch(sentences: list[list[str]], random: object) -> None:
    bilm = tiny.bilm(tiny.config())
    elmo = Elmo(bilm)
    order = list(range(len(sentences)))
    random.shuffle(order)  # type: ignore[attr-defined]
    turned = dict(zip(order, elmo.embed([sentences[n] for n in order]), strict=True))
    for number, together in enumerate(elmo.embed(sentences)):
        assert together.shape == (3, len(sentences[number]), 10)
        assert_close(together, elmo.embed([sentences[number]])[0])
        assert_close(together, turned[number])


def test_a_model_with_hundreds_of_cells_gives_the_same_vectors_in_any_batch() -> None:
    """With twice the initial weights, states amplify rounding errors."""
    torch.manual_seed(0)
    filters = [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256]]
    bilm = BiLM(ModelConfig(filters=filters, num_highway=1, lstm_dim=512, projection_dim=64))
    with torch.no_grad():
        for layer in bilm.layers:
            for parameter in layer.parameters():
                parameter.mul_(2)
    generator, elmo = np.random.default_rng(0), Elmo(bilm)
    words = np.array(tiny.SOME_WORDS[2:] + [f"w{n}" * (1 + n % 7) for n in range(200)])
    sentences = [generator.choice(words, generator.integers(1, 40)).tolist() for _ in range(40)]
    for number, layers in enumerate(elmo.embed(sentences)):
        assert_close(layers, elmo.embed([sentences[number]])[0])


def test_a_batch_is_padded_with_zeros_and_masked(bilm: BiLM) -> None:
    output = Elmo(bilm, 2)(SENTENCES, return_layers=True)
    assert output.mask.tolist() == [[n < len(s) for n in range(40)] for s in SENTENCES]
    assert output.layers is not None and output.layers.shape == (3, len(SENTENCES), 40, 10)
    for values in (*output.mixed, *output.layers):
        assert bool((values[~output.mask] == 0).all()) and bool((values[output.mask] != 0).any(-1).all())
    for row, layers in enumerate(Elmo(bilm).embed(SENTENCES)):
        assert torch.equal(output.layers[:, row, : layers.shape[1]], layers)


def test_no_sentences_and_only_empty_sentences_can_be_embedded(bilm: BiLM) -> None:
    elmo = Elmo(bilm)
    assert elmo([]).mixed[0].shape == (0, 0, 10) and elmo([[], []]).mixed[0].shape == (2, 0, 10)
    assert elmo.embed([]) == [] and [e.shape for e in elmo.embed([[], []])] == [(3, 0, 10)] * 2


def test_a_long_sentence_gives_the_same_layers_as_when_read_in_pieces(bilm: BiLM) -> None:
    """10,000 words are many blocks of the recurrence; the last words depend on all words before them."""
    words = np.random.default_rng(0).choice(np.array(["a", "the", "Zürich", "naïve"]), 10_000).tolist()
    (layers,) = Elmo(bilm).embed([words])
    assert layers.shape == (3, 10_000, 10) and bool(layers.isfinite().all())
    states = bilm.initial_states(1)
    with torch.no_grad():
        for start in range(0, 10_000, 2_500):
            piece = [*(["<S>"] if start == 0 else []), *words[start : start + 2_500]]
            read, states = bilm(tiny.window([[[w] for w in piece]] * 2), states)
    assert_close(layers[:, -2_500:, :5], torch.stack([y[0, :, 0] for y in read]))


def test_character_ids_give_the_same_vectors_as_words(bilm: BiLM) -> None:
    """Make the ids as AllenNLP's batch_to_ids does: 1 is added, and 0 means no word."""
    elmo = Elmo(bilm)
    ids = elmo.character_ids(SENTENCES)
    assert ids.shape == (len(SENTENCES), 40, 50) and ids[1, 0, :4].tolist() == [259, 98, 260, 261]
    assert ids[6, 0, :4].tolist() == [259, 257, 260, 261] and bool((ids[2] == 0).all())
    ours, theirs = elmo(SENTENCES, return_layers=True), elmo(ids, return_layers=True)
    assert torch.equal(ours.mask, theirs.mask)
    assert_close(theirs.layers, ours.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: ids[..., :30], "whole numbers"),
        (lambda ids: ids.float(), "whole numbers"),
        (lambda ids: ids.flip(1), "words first"),
        (lambda ids: ids + 1, "from 1 to 261"),
        (lambda ids: ids.index_fill(2, torch.tensor([3]), 0), "from 1 to 261"),
    ],
)
def test_malformed_character_ids_are_refused(bilm: BiLM, change: object, message: str) -> None:
    ids = Elmo(bilm).character_ids([["a", "the"], ["a"]])
    with pytest.raises(ConfigError, match=message):
        Elmo(bilm)(change(ids))  # type: ignore[operator]


def test_a_string_in_place_of_a_list_of_words_is_refused(bilm: BiLM) -> None:
    with pytest.raises(ConfigError, match="sentence 1 is one string"):
        Elmo(bilm)([["a"], "the cat"])
    with pytest.raises(ConfigError, match="lists of words"):
        Elmo(bilm)([["a", 3]])  # type: ignore[list-item]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 40), st.integers(0, 100))
def test_groups_have_the_lowest_cost_and_hold_each_sentence_once(lengths: list[int], max_rows: int, extra: int) -> None:
    steps = np.array(lengths, np.int64)
    groups = group_by_length(steps, max_rows, extra)
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    assert all(len(group) <= max_rows for group in groups)

    def cost(groups: list) -> int:
        return sum(int(steps[group].max()) * (len(group) + extra) for group in groups)

    order = np.argsort(steps, kind="stable")
    fixed = [order[start : start + max_rows] for start in range(0, len(order), max_rows)]
    assert cost(groups) <= min(cost(fixed), cost([[n] for n in order]))


# Mixes


def test_a_mix_is_gamma_times_the_softmax_weighted_sum(bilm: BiLM) -> None:
    elmo = Elmo(bilm, 2, l2=0.5)
    with torch.no_grad():
        elmo.mixes[1].scalars.copy_(torch.tensor([0.5, -1.0, 2.0]))  # type: ignore[union-attr]
        elmo.mixes[1].gamma.fill_(3.0)  # type: ignore[union-attr]
    output = elmo(SENTENCES, return_layers=True)
    assert output.layers is not None
    assert_close(output.mixed[0], output.layers.mean(0))
    weights = torch.softmax(torch.tensor([0.5, -1.0, 2.0]), 0)
    assert_close(output.mixed[1], 3 * (weights[:, None, None, None] * output.layers).sum(0), 3e-6)
    assert elmo.regularization().item() == pytest.approx(0.5 * (0.25 + 1 + 4))


def test_the_top_layer_or_fixed_weights_can_replace_the_mix(bilm: BiLM) -> None:
    top, fixed = Elmo(bilm, layers="top"), Elmo(bilm, layers=[0.5, 0.0, -2.0])
    output = top(SENTENCES, return_layers=True)
    assert output.layers is not None
    assert torch.equal(output.mixed[0], output.layers[-1])
    assert [name for name, p in top.named_parameters() if p.requires_grad] == ["mixes.0.gamma"]
    assert_close(fixed(SENTENCES).mixed[0], 0.5 * output.layers[0] - 2 * output.layers[2], 2e-6)
    assert not [name for name, p in fixed.named_parameters() if p.requires_grad]
    assert top.regularization().item() == 0.0
    for wrong in ("bottom", [1.0, 2.0]):
        with pytest.raises(ConfigError, match="3 numbers"):
            Elmo(bilm, layers=wrong)


@pytest.mark.parametrize("way", [True, "allennlp"])
def test_layer_norm_has_one_mean_and_variance_over_all_words(bilm: BiLM, way: bool | str) -> None:
    """With bilm-tf's way the sentence bounds do not count for mean and variance; with AllenNLP's they do."""
    sentences = [s for s in SENTENCES[:5] if s]
    words = SentenceEncoder(bilm).encode(sentences, bounds=way == "allennlp").layers.numpy()
    layers = [x.numpy() for x in Elmo(bilm).embed(sentences)]
    mean, deviation = words.mean((1, 2), keepdims=True), words.std((1, 2), keepdims=True)
    output = Elmo(bilm, layer_norm=way)(sentences)
    for row, of_sentence in enumerate(layers):
        expected = ((of_sentence - mean) / deviation).mean(0)
        assert_close(output.mixed[0][row, : expected.shape[0]], expected, 1e-5)
    assert bool((output.mixed[0][~output.mask] == 0).all())


def test_the_layers_of_sentence_bounds_are_returned_on_request(bilm: BiLM) -> None:
    packed = SentenceEncoder(bilm).encode([["a", "the"], [], ["a"]], bounds=True)
    assert packed.lengths.tolist() == [4, 2, 3]
    whole = packed.sentences()[0]
    assert_close(whole[:, 1:-1], Elmo(bilm).embed([["a", "the"]])[0])
    twin = NumpyBiLM(bilm.state_dict(), bilm.config)
    words = ["<S>", "a", "the", "</S>"]
    layers, _ = twin.run([[[w] for w in words], [[w] for w in reversed(words)]], twin.cold_states(1))
    assert_close(whole, np.stack([np.concatenate([y[0, :, 0], y[1, ::-1, 0]], 1) for y in layers]), 2e-6)


def test_dropout_is_applied_to_the_mixes_in_training_only(bilm: BiLM) -> None:
    elmo = Elmo(bilm, dropout=0.5).train()
    torch.manual_seed(0)
    dropped, whole = elmo(SENTENCES), elmo.eval()(SENTENCES)
    is_zero = (dropped.mixed[0] == 0)[dropped.mask]
    assert 0.3 < float(is_zero.float().mean()) < 0.7
    assert_close(dropped.mixed[0][dropped.mask][~is_zero], 2 * whole.mixed[0][dropped.mask][~is_zero])


def test_a_word_has_2_l_plus_1_vectors_as_in_the_paper(bilm: BiLM) -> None:
    (layers,) = Elmo(bilm).embed([["a", "the"]])
    found = representations(layers)
    assert found.shape == (5, 2, 5)
    assert torch.equal(layers[0, :, :5], layers[0, :, 5:]) and torch.equal(found[0], layers[0, :, :5])
    for number, (layer, half) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)], 1):
        assert torch.equal(found[number], layers[layer].chunk(2, -1)[half])


# Gradients


def test_a_frozen_bilm_stays_unchanged_while_the_mixes_learn(bilm: BiLM) -> None:
    elmo = Elmo(bilm)
    assert [n for n, p in elmo.named_parameters() if p.requires_grad] == ["mixes.0.gamma", "mixes.0.scalars"]
    elmo(SENTENCES).mixed[0].square().sum().backward()
    assert all(p.grad is None for p in elmo.bilm.parameters())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in elmo.mixes.parameters())


def test_gradients_reach_every_weight_and_are_right() -> None:
    """Compare with central differences in float64, through padding, order, mix and norm."""
    elmo = Elmo(tiny.bilm(tiny.config(), dtype=torch.float64), layer_norm=True, trainable=True).double()
    sentences = [["the", "a", "漢字"], [], ["a"], ["the", "Zürich"]]
    targets = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss() -> Tensor:
        return (elmo(sentences).mixed[0] * targets).sum()

    loss().backward()
    generator = np.random.default_rng(0)
    for name, parameter in elmo.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        flat, place = parameter.data.view(-1), int(parameter.grad.abs().argmax())
        for index in {place, int(generator.integers(flat.numel()))}:
            kept, values = float(flat[index]), []
            for step in (1e-6, -1e-6):
                flat[index] = kept + step
                values.append(loss().item())
            flat[index] = kept
            numeric = (values[0] - values[1]) / 2e-6
            assert float(parameter.grad.view(-1)[index]) == pytest.approx(numeric, rel=1e-4, abs=1e-6), name


def test_embedding_without_gradients_gives_the_same_vectors(bilm: BiLM) -> None:
    elmo = Elmo(tiny.bilm(tiny.config()), trainable=True)
    learnt = elmo.sentence_encoder.encode(SENTENCES).sentences()
    for trainable, plain in zip(learnt, elmo.embed(SENTENCES), strict=True):
        assert trainable.requires_grad and not plain.requires_grad
        assert_close(plain, trainable.detach())


def test_the_softmax_is_not_part_of_elmo(bilm: BiLM) -> None:
    elmo = Elmo(bilm, trainable=True)
    assert isinstance(bilm, LanguageModel) and not any("softmax" in name for name, _ in elmo.named_parameters())


def test_bf16_gives_nearly_the_same_vectors_in_float32(bilm: BiLM) -> None:
    elmo = Elmo(bilm)
    with torch.autocast("cpu", torch.bfloat16):
        low = elmo(SENTENCES).mixed[0]
    assert low.dtype == torch.float32
    error = (low - elmo(SENTENCES).mixed[0]).abs().max()
    assert 0 < error < 0.2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_vectors(bilm: BiLM) -> None:
    here = Elmo(bilm).embed(SENTENCES)
    there = Elmo(tiny.bilm(tiny.config())).to("cuda").embed(SENTENCES)
    for ours, expected in zip(there, here, strict=True):
        assert_close(ours.cpu(), expected, 1e-5)


# The table of words


def test_cached_words_have_the_vectors_of_their_characters(bilm: BiLM) -> None:
    plain, cached = Elmo(bilm), Elmo(bilm)
    cached.cache_vocabulary(["the", "a", "the", "漢字", "<S>"])
    for ours, expected in zip(cached.embed(SENTENCES), plain.embed(SENTENCES), strict=True):
        assert_close(ours, expected)
    assert not any("vectors" in name for name in cached.state_dict())


def test_cached_words_come_from_the_table_and_no_others(bilm: BiLM) -> None:
    elmo = Elmo(bilm)
    elmo.cache_vocabulary(["the"])
    elmo.sentence_encoder.word_cache.vectors += 1.0
    (found,), (expected,) = elmo.embed([["the", "a"]]), Elmo(bilm).embed([["the", "a"]])
    assert_close(found[0, 0], expected[0, 0] + 1)
    assert_close(found[0, 1], expected[0, 1])


def test_a_table_follows_new_weights_and_is_refused_for_a_trainable_model(bilm: BiLM) -> None:
    elmo = Elmo(tiny.bilm(tiny.config()))
    elmo.cache_vocabulary(["the", "a"])
    other = tiny.bilm(tiny.config(), seed=1)
    elmo.bilm.load_state_dict(other.state_dict(), strict=False)
    assert_close(elmo.embed([["the", "a"]])[0], Elmo(other).embed([["the", "a"]])[0])
    with pytest.raises(ConfigError, match="trainable=False"):
        Elmo(tiny.bilm(tiny.config()), trainable=True).cache_vocabulary(["the"])
    elmo.requires_grad_(True)
    with pytest.raises(ConfigError, match="trainable=False"):
        elmo([["the"]])


# States


def test_each_row_continues_from_its_last_state_until_a_reset(bilm: BiLM) -> None:
    elmo, cold = Elmo(bilm, stateful=True), Elmo(bilm)
    first, second = [["a", "the"], ["the"], []], [["Zürich"], ["a", "a", "a"]]
    found = [elmo.embed(first), elmo.embed(second), elmo.embed(first)]
    for row in range(3):
        assert_close(found[0][row], cold.embed([first[row]])[0])
    twin = NumpyBiLM(bilm.state_dict(), bilm.config)
    states = twin.cold_states(1)
    for sentence in (first[0], second[0], first[0]):
        words = ["<S>", *sentence, "</S>"]
        layers, states = twin.run([[[w] for w in words], [[w] for w in reversed(words)]], states)
    expected = np.stack([np.concatenate([y[0, 1:-1, 0], y[1, ::-1][1:-1, 0]], 1) for y in layers])
    assert_close(found[2][0], expected, 2e-6)
    assert (found[2][0] - found[0][0]).abs().max() > 1e-3
    elmo.reset_states()
    for ours, before in zip(elmo.embed(first), found[0], strict=True):
        assert torch.equal(ours, before)


def test_a_stateful_trainable_bilm_can_take_several_steps() -> None:
    elmo = Elmo(tiny.bilm(tiny.config()), trainable=True, stateful=True)
    optimizer = torch.optim.SGD(elmo.parameters(), 0.01)
    for _ in range(2):  # a second backward through the states of the first batch would be an error
        elmo(SENTENCES).mixed[0].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


# Folders


def test_a_saved_elmo_is_loaded_unchanged(bilm: BiLM, tmp_path: Path) -> None:
    elmo = Elmo(bilm, 2, dropout=0.25, layer_norm=True, l2=0.1).eval()
    with torch.no_grad():
        for parameter in elmo.mixes.parameters():
            parameter.add_(torch.rand(parameter.shape))
    elmo.save_pretrained(tmp_path / "elmo")
    again = Elmo.from_pretrained(tmp_path / "elmo").eval()
    assert again.options == elmo.options
    for ours, expected in zip(again(SENTENCES).mixed, elmo(SENTENCES).mixed, strict=True):
        assert torch.equal(ours, expected)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_text() == (tmp_path / "elmo/config.json").read_text()


def test_given_options_override_saved_ones(bilm: BiLM, tmp_path: Path) -> None:
    Elmo(bilm, 2).save_pretrained(tmp_path / "elmo")
    top = Elmo.from_pretrained(tmp_path / "elmo", num_outputs=1, layers="top", trainable=True)
    assert len(top.mixes) == 1 and isinstance(top.mixes[0], ScalarMix) and not top.mixes[0].is_learned
    assert all(p.requires_grad for p in top.bilm.parameters())
