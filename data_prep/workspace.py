"""Where a preparation keeps what is not finished: a hidden folder in the output folder, removed at the end."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.files import DataError
from data_prep.dataset.index import INDEX, SPLITS
from data_prep.dataset.lexicon import FILES as LEXICON_FILES

SKIPPED = "skipped.tsv"
WORK_REMEDY = "start the preparation again (overwrite=true, or remove the folder)"


@dataclass(frozen=True)
class Workspace:
    """Names in the output folder. Everything below `folder` goes when the dataset is finished."""

    output: Path

    @property
    def folder(self) -> Path:
        """The work folder itself."""
        return self.output / ".work"

    @property
    def plan(self) -> Path:
        """The saved Plan."""
        return self.folder / "plan.json"

    @property
    def merge_record(self) -> Path:
        """The MergeRecord: its presence says that pass 2 is done."""
        return self.folder / "merge.json"

    @property
    def bounds(self) -> Path:
        """The slices of the runs that make each shard."""
        return self.folder / "bounds"

    @property
    def index(self) -> Path:
        """The dataset's index: its presence says that the dataset is finished."""
        return self.output / INDEX

    @property
    def identity(self) -> Path:
        """Options and inputs of the finished dataset, to recognise a rerun."""
        return self.output / ".prepared.json"

    def unit_folder(self, number: int) -> Path:
        """The runs of a unit."""
        return self.folder / f"unit-{number:06d}"

    def unit_record(self, number: int) -> Path:
        """The UnitRecord: its presence says that the unit is encoded."""
        return self.folder / f"unit-{number:06d}.json"

    def shard_record(self, split: str, number: int) -> Path:
        """A shard's index entry: its presence says that the shard is written."""
        return self.folder / f"{split}-{number:06d}.json"

    def temporary_folder(self, name: str) -> Path:
        """A new folder that counts for nothing until it is renamed."""
        return Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=self.folder))

    def clear_temporaries(self) -> None:
        """What killed processes left half-written is gone. Nobody else may be at work here."""
        for folder in (self.folder, self.output):
            for path in folder.glob("*.tmp"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def clear_torn_shards(self) -> None:
        """What killed tasks left of shards that others have written since is gone."""
        for path in self.output.glob(".*.tar.*.tmp"):
            path.unlink(missing_ok=True)

    def clear_work(self) -> None:
        """The work folder is gone; of the output only finished files are left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear_dataset(self) -> None:
        """Every file of a dataset is gone from the output folder, the index first; other files stay."""
        self.folder.mkdir(parents=True, exist_ok=True)  # says whose files these are, should this be cut short
        self.index.unlink(missing_ok=True)
        for name in (*LEXICON_FILES, SKIPPED, self.identity.name):
            (self.output / name).unlink(missing_ok=True)
        for split in SPLITS:
            for path in self.output.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9][0-9]*.tar"):
                path.unlink()
        self.clear_work()

    def refuse_foreign_files(self) -> None:
        """DataError if the folder holds anything and is neither a dataset nor one in the making."""
        if self.index.exists() or self.folder.exists() or not self.output.exists():
            return
        if names := sorted(path.name for path in self.output.iterdir()):
            raise DataError(f"output {self.output} holds {names[0]} and is no dataset; name a new or empty folder")

    @contextmanager
    def locked(self, shared: bool) -> Iterator[None]:
        """Nobody else prepares into this folder meanwhile (shared: but for other tasks of the same job array)."""
        self.output.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.output, os.O_RDONLY)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise DataError(f"another process is preparing into {self.output}; wait for it or stop it") from None
        except OSError:
            pass  # a file system without locks (some network ones): the user has to see to it
        try:
            yield
        finally:
            os.close(handle)
