"""Properties of every task network: sizes, padding, gradients, and the baseline inside the ELMo model."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config.task_networks import ElmoConfig
from pipeline.config.tasks import task_schema
from pipeline.tasks.networks.coreference import Coreference
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.entailment import Entailment
from pipeline.tasks.networks.layers.highway_lstm import HighwayLstmLayer
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.question_answering import QuestionAnswering
from pipeline.tasks.networks.sentiment import Sentiment
from pipeline.tasks.networks.srl import Srl
from pipeline.tasks.networks.tagger import Tagger
from tests.tasks.networks.made_up import TASKS, Task, layers_of

BOTH = ElmoConfig("both", dropout=0.1)
# A softmax is not changed by a value that is added to all of its scores.
WITHOUT_EFFECT = {"bi_attention.similarity.bias", "head.bias", "self_attention.bias", "start.bias", "end.bias"}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]


def paper_sized(task: str, kind: type[TaskNetwork[Any, Any, Any]], place: str) -> Any:
    """Return a network of the default sizes with few labels and words, on which only the last layer depends."""
    config: Any = task_schema(task)()
    vectors = np.zeros((3, config.words.dim), np.float32)
    placement = ElmoPlacement(dataclasses.replace(config.elmo, placement=place))
    return kind(config.network, Embedder(config.words, vectors, 10), placement, ("B-A", "I-A", "O"))


# Sizes


def test_the_tagger_has_the_sizes_of_the_paper() -> None:
    for place, width in (("none", 178), ("input", 1202)):
        tagger = paper_sized("ner", Tagger, place)
        assert [layer.rnn.input_size for layer in tagger.encoder.layers] == [width, 400]
        assert tagger.projection.in_features == 400
    assert paper_sized("ner", Tagger, "output").projection.in_features == 1424
    assert paper_sized("pos", Tagger, "none").crf is None


def test_srl_has_the_sizes_of_the_paper() -> None:
    for place, width in (("none", 200), ("input", 1224)):
        layers = paper_sized("srl", Srl, place).encoder.layers
        assert [layer.input_projection.in_features for layer in layers] == [width, *[300] * 7]
        assert [layer.backward for layer in layers] == [False, True] * 4
        assert all(isinstance(layer, HighwayLstmLayer) and layer.hidden == 300 for layer in layers)


def test_coreference_has_the_sizes_of_the_paper() -> None:
    network = paper_sized("coref", Coreference, "none")
    assert (network.embedder.output_dim, network.encoder.output_dim) == (500, 400)
    assert network.mention[0].in_features == network.span_dim == 1320
    assert network.pair[0].in_features == network.pair_dim == 4020
    network = paper_sized("coref", Coreference, "input")
    assert network.encoder.rnn.input_size == 1524
    assert network.span_dim == 1320


def test_question_answering_has_the_sizes_of_the_paper() -> None:
    for place, width, attended in (("none", 400, 720), ("input", 1424, 720), ("both", 1424, 4816)):
        network = paper_sized("squad", QuestionAnswering, place)
        assert (network.encoder.rnn.input_size, network.encoder.rnn.hidden_size) == (width, 90)
        assert network.merge[0].in_features == network.attended_dim == attended
        assert (network.start_encoder.rnn.input_size, network.end_encoder.rnn.input_size) == (180, 360)


def test_entailment_has_the_sizes_of_the_paper() -> None:
    for place, width, enhanced in (("none", 300, 2400), ("both", 1324, 6496)):
        network = paper_sized("snli", Entailment, place)
        assert network.encoder.rnn.input_size == width
        assert network.projection[0].in_features == network.enhanced_dim == enhanced
        assert network.classifier[1].in_features == 2400


def test_sentiment_has_the_sizes_of_the_paper() -> None:
    for place, width, second in (("none", 300, None), ("input", 1324, None), ("both", 1324, 1624)):
        network = paper_sized("sst5", Sentiment, place)
        assert network.pre_encoder[0].in_features == width
        assert network.integrator.rnn.input_size == 1800
        assert (network.output_encoder and network.output_encoder.rnn.input_size) == second
        assert [layer.in_features for layer in network.classifier.layers] == [2400, 1200, 600]
        assert [layer.out_features for layer in network.classifier.layers] == [4800, 2400, 12]


# Padding


def test_an_example_gets_the_same_answer_alone_and_in_a_batch(task: Task) -> None:
    examples = task.examples(8, seed=4)
    network, tables = task.network(examples, BOTH)
    network.eval()
    together = task.kind.make_batch(examples, tables).with_elmo(layers_of)
    alone = [task.kind.make_batch([example], tables).with_elmo(layers_of) for example in examples]
    assert network.predict(together) == [network.predict(batch)[0] for batch in alone]
    losses = torch.stack([network.loss(batch) for batch in alone]).detach()
    is_summed = getattr(network, "crf", None) is not None
    expected = losses.sum() if is_summed else losses.mean()
    torch.testing.assert_close(network.loss(together).detach(), expected, rtol=1e-5, atol=1e-5)


def test_unknown_words_and_labels_can_be_predicted(task: Task) -> None:
    examples = task.examples(8, seed=4)
    network, tables = task.network(examples, BOTH)
    others = task.examples(3, seed=99)
    tables = dataclasses.replace(tables, words=dataclasses.replace(tables.words, words=("a",)))
    batch = task.kind.make_batch(others, tables).with_elmo(layers_of)
    assert len(network.eval().predict(batch)) == 3


# Gradients


def test_gradients_reach_every_parameter_and_nothing_else(task: Task) -> None:
    examples = task.examples(16, seed=4)
    network, tables = task.network(examples, BOTH)
    batch = task.kind.make_batch(examples, tables).with_elmo(layers_of)
    (network.loss(batch) + network.placement.l2_penalty()).backward()
    still = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7}
    assert still == WITHOUT_EFFECT & {name for name, _ in network.named_parameters()}
    assert all(sequences.elmo.grad is None for sequences in batch.sequences)
    trains_words = task.embedder.vectors == "trained"
    assert isinstance(network.embedder.vectors, nn.Parameter) == trains_words
    if trains_words:
        assert not network.embedder.vectors.grad[0].any()


def test_gradients_reach_a_bilm_that_is_trained_with_the_task(task: Task) -> None:
    examples = task.examples(4, seed=4)
    network, tables = task.network(examples, BOTH)
    batch = task.kind.make_batch(examples, tables).with_elmo(lambda texts: layers_of(texts).requires_grad_())
    network.loss(batch).backward()
    for sequences in batch.sequences:
        assert sequences.elmo.grad[:, sequences.mask].any()
        assert not sequences.elmo.grad[:, ~sequences.mask].any()


# The baseline


def test_the_elmo_model_with_gamma_0_equals_the_baseline(task: Task) -> None:
    """Loss, predictions and gradients are equal once the shared weights are equal.

    The extra columns of a wider weight are those without a gradient at gamma = 0, because their input is 0. Dropout is
    off, because masks of other widths use other random numbers. At the output of `Sentiment`, ELMo brings an RNN.
    """
    places = ["input"] if task.kind is Sentiment else ["input", "output"]
    examples = task.examples(16, seed=4)
    baseline, tables = task.network(examples, ElmoConfig("none"))
    network, _ = task.network(examples, ElmoConfig("both" if len(places) == 2 else places[0], dropout=0.0), seed=2)
    without_elmo = task.kind.make_batch(examples, tables)
    with_elmo = without_elmo.with_elmo(layers_of)
    no_dropout(baseline), no_dropout(network)
    with torch.no_grad():
        for filters in network.embedder.cnn.convolutions if network.embedder.cnn else ():
            # So that no filter is below 0 for all words, which would leave its column without a gradient.
            filters.bias.fill_(3.0)
        for mix in network.placement.mixes.values():
            mix.gamma.zero_()
    network.loss(with_elmo).backward()
    parameters = dict(network.named_parameters())
    extra = {name: narrow_columns(parameters[name], p) for name, p in baseline.named_parameters()}
    assert sum(columns is not None for columns in extra.values()) >= len(places)
    with torch.no_grad():
        for name, p in baseline.named_parameters():
            columns = extra[name]
            parameters[name][... if columns is None else (slice(None), columns)] = p
    network.zero_grad()
    network.loss(with_elmo).backward()
    baseline.loss(without_elmo).backward()
    torch.testing.assert_close(network.loss(with_elmo), baseline.loss(without_elmo))
    assert network.predict(with_elmo) == baseline.predict(without_elmo)
    for name, p in baseline.named_parameters():
        gradient, columns = parameters[name].grad, extra[name]
        assert gradient is not None
        torch.testing.assert_close(
            gradient if columns is None else gradient[:, columns], p.grad, rtol=1e-4, atol=1e-5, msg=name
        )


def no_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("rate", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def narrow_columns(wide: Tensor, narrow: Tensor) -> Tensor | None:
    """Return the columns of a wider weight that the baseline has too, None if both have the same shape."""
    if wide.shape == narrow.shape:
        return None
    assert wide.grad is not None
    columns = wide.grad.abs().amax(0).nonzero()[:, 0]
    assert len(columns) == narrow.shape[1]
    return columns


def test_dropout_in_the_baseline_does_not_depend_on_layers_of_elmo_in_the_batch(task: Task) -> None:
    examples = task.examples(8, seed=4)
    network, tables = task.network(examples, ElmoConfig("none"))
    batch = task.kind.make_batch(examples, tables)
    losses = []
    for each in (batch, batch.with_elmo(layers_of)):
        torch.manual_seed(3)
        losses.append(float(network.loss(each).detach()))
    assert losses[0] == losses[1]
    assert not network.placement.l2_penalty()
    assert not list(network.placement.parameters())


def test_the_loss_in_bfloat16_is_close_to_the_loss_in_float32(task: Task) -> None:
    """Mixed precision brings tensors of both types into one operation wherever a network joins parts."""
    examples = task.examples(8, seed=4)
    network, tables = task.network(examples, BOTH)
    network.eval()
    batch = task.kind.make_batch(examples, tables).with_elmo(layers_of)
    expected = network.loss(batch).detach()
    has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()  # without it oneDNN has no LSTM in bfloat16
    with torch.backends.mkldnn.flags(enabled=has_avx512), torch.autocast("cpu", torch.bfloat16):
        loss = network.loss(batch)
        assert len(network.predict(batch)) == 8
    loss.backward()
    torch.testing.assert_close(loss.detach().float(), expected, rtol=0.03, atol=0.03)
