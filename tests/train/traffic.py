"""What a real training step allocates, what it reads of the softmax table, and what it sends to other ranks.

python -m tests.train.traffic DATASET V1 V2 ...: as one of two ranks, print what a step sends at each vocabulary size.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from torch.distributed import all_reduce  # imported before it is replaced by a function that counts

from data_prep.dataset.open import open_dataset
from pipeline.config.schema import PretrainConfig
from pipeline.data.datamodule import BiLMDataModule
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import BatchMaker, TrainWindows
from pipeline.model.language_model import LanguageModel
from pipeline.train.step.inputs import Preparation
from pipeline.train.step.module import BiLMModule
from pipeline.train.step.state import TrainingState
from pipeline.train.trainer import build_trainer
from tests.dispatch import TorchDispatchMode, tree_leaves
from tests.train import runs

# These operations touch only the rows that an index names, or no values at all.
ROW_OPERATIONS = {
    "aten.index.Tensor", "aten.index_select.default", "aten.embedding.default", "aten.index_put_.default",
    "aten.index_add_.default", "aten.index_copy_.default", "aten.detach.default", "aten.alias.default",
    "aten.view.default", "aten._unsafe_view.default", "aten._sparse_coo_tensor_unsafe.default",
    "aten._sparse_coo_tensor_with_dims_and_tensors.default", "aten._indices.default", "aten._values.default",
    "aten.new_zeros.default", "aten.is_coalesced.default", "aten._coalesced_.default", "aten.sparse_dim.default",
    "aten._nnz.default", "aten.indices.default", "aten.values.default",
}  # fmt: skip


@dataclass
class Work(TorchDispatchMode):
    """made: elements of new tensors. on_table: operations with an input as long as the vocabulary."""

    vocab_size: int
    made: int = 0
    on_table: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if any(self.vocab_size in t.shape for t in given):
            self.on_table.add(str(func))
        storages = {t.untyped_storage().data_ptr() for t in given if t.layout is torch.strided}
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.layout is torch.strided:
                self.made += made.numel() * (made.untyped_storage().data_ptr() not in storages)
        return result


class OneStep(Callback):
    """Measure the last step with the optimizer's part; the steps before it create the optimizer's state."""

    def __init__(self, work: Work, last: int) -> None:
        self.work, self.last = work, last

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        if i == self.last:
            self.work.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if args[-1] == self.last:
            self.work.__exit__(None, None, None)


def fit(config: PretrainConfig, vocab_size: int, callback: Callback) -> None:
    """Train max_steps steps with any vocabulary size; the dataset's words are its first ones."""
    data = open_dataset(config.data.path)
    assert len(data.lexicon) < vocab_size
    steps = config.train.max_steps or 1
    lanes = TrainLanes(data.splits["train"].num_tokens, config.data.lanes, config.data.window)
    maker = BatchMaker(data.lexicon, Vocabulary(vocab_size), config.model.max_characters)
    torch.manual_seed(0)
    state = TrainingState(steps, None, [None] * config.lane_groups)
    bilm = LanguageModel(config.model, vocab_size)
    if config.softmax.affixes:
        bilm.softmax.share_rows([f"word{number}" for number in range(vocab_size)])
    module = BiLMModule(config, bilm, state)
    windows = TrainWindows(data.splits["train"], maker, lanes, config.run.seed)
    prepare = Preparation(config, vocab_size)
    batches = BiLMDataModule(windows, config.data, config.lane_groups, range(steps), prepare)
    build_trainer(config, None, [callback]).fit(module, datamodule=batches)


def measure_step(config: PretrainConfig, vocab_size: int) -> Work:
    assert config.train.max_steps is not None
    work = Work(vocab_size)
    fit(config, vocab_size, OneStep(work, config.train.max_steps - 1))
    return work


class Sent(Callback):
    """Bytes that this rank passes to collectives: rows, in the project's own calls, and dense gradients, in DDP."""

    def __init__(self) -> None:
        self.rows = self.dense = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ddp = trainer.strategy.model
        assert isinstance(ddp, torch.nn.parallel.DistributedDataParallel)
        ddp.register_comm_hook(None, self._dense)
        self.rows = 0

    def _dense(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.dense += bucket.buffer().numel() * bucket.buffer().element_size()
        total = all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return total.then(lambda done: done.value()[0])

    def count(self, name: str) -> None:
        """Make the named function of torch.distributed count the bytes that it is given."""
        real = getattr(dist, name)

        def counted(*tensors: Any, **options: Any) -> Any:
            self.rows += sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
            return real(*tensors, **options)

        setattr(dist, name, counted)


def main() -> None:
    dataset, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]
    sent = Sent()
    for name in ("all_reduce", "all_gather", "all_gather_single", "all_gather_into_tensor"):
        if hasattr(dist, name):
            sent.count(name)
    found = []
    for size in sizes:
        fit(runs.config_of(dataset, Path("unused"), "train.devices=2", "train.max_steps=3"), size, sent)
        found.append({"rows": sent.rows, "dense": sent.dense})
        sent.rows = sent.dense = 0
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
