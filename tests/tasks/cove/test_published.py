"""Weights with the key names of salesforce/cove become a model folder; other files are refused in one sentence."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import cli
from pipeline.tasks.cove.model import Cove
from tests.tasks.cove.parallel import write_vectors


def published(path: Path, prefix: str = "", dim: int = 6, hidden: int = 4) -> nn.LSTM:
    """Write the state of the LSTM of salesforce/cove (cove/encoder.py:48-56); return it."""
    torch.manual_seed(1)
    rnn = nn.LSTM(dim, hidden, num_layers=2, bidirectional=True)
    torch.save({prefix + name: value for name, value in rnn.state_dict().items()}, path)
    return rnn


def command(folder: Path, *options: str) -> int:
    vectors = write_vectors(folder / "vectors.txt")
    pairs = [f"weights={folder / 'wmtlstm.pth'}", f"vectors={vectors}", f"output={folder / 'model'}"]
    return cli.main(["cove", "import", *pairs, *options])


@pytest.mark.parametrize("prefix", ["", "rnn.", "rnn1."])
def test_published_weights_give_the_outputs_of_their_lstm(prefix: str, tmp_path: Path) -> None:
    rnn = published(tmp_path / "wmtlstm.pth", prefix)
    assert command(tmp_path) == 0
    cove = Cove.from_pretrained(tmp_path / "model")
    (layers,) = cove.embed([("The", "river", "runs")])
    with torch.no_grad():
        outputs, _ = rnn(layers[0, :, None, :6])
    torch.testing.assert_close(layers[2], outputs[:, 0])
    assert (cove.num_layers, cove.width) == (3, 8)


def test_only_the_first_vectors_are_kept_and_a_model_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path / "wmtlstm.pth")
    assert command(tmp_path, "max_vectors=3") == 0
    assert len(Cove.from_pretrained(tmp_path / "model").words.words) == 3
    assert command(tmp_path) == 2
    assert "holds a model; give another folder, or overwrite=true" in capsys.readouterr().err
    assert command(tmp_path, "overwrite=true") == 0


def test_foreign_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wmtlstm.pth"
    good = {name: value for name, value in published(path).state_dict().items()}
    missing = {name: value for name, value in good.items() if name != "bias_hh_l1"}
    cases = [
        (b"text", "cannot be read as weights"),
        (pickle.dumps(Path("x")), "cannot be read as weights"),
        ([good], "holds no named tensors"),
        ({}, "holds no named tensors"),
        ({"encoder.weight": torch.zeros(2)}, "'encoder.weight', which is no weight of an LSTM"),
        (missing, "layers.1.bias_hh_l0 is absent"),
        (good | {"weight_ih_l0": torch.zeros(3, 2)}, "has no weight_ih_l0 of"),
        (good | {"bias_ih_l0": good["bias_ih_l0"] * torch.nan}, "holds NaN"),
        (good | {"weight_hh_l1": torch.zeros(16, 5)}, "layers.1.weight_hh_l0 is \\(16, 5\\)".replace("\\", "")),
    ]
    for content, said in cases:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        assert command(tmp_path) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1, error


def test_vectors_of_another_size_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(tmp_path / "wmtlstm.pth", dim=5)
    assert command(tmp_path) == 2
    assert "has 6 numbers a word, but" in capsys.readouterr().err
