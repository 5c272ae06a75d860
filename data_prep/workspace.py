"""The work folder of a preparation: a hidden folder in the output folder, removed at the end."""

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.files import DataError, lock_file, temporary_of
from data_prep.dataset.index import FORMAT, INDEX, SPLITS
from data_prep.dataset.lexicon import FILES as LEXICON_FILES

SKIPPED, IDENTITY, LOCK = "skipped.tsv", ".prepared.json", ".prepare.lock"
SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{6,}}\.tar")
_WORK_FILES = re.compile(r"(plan|merge)\.json|bounds|unit-\d{6,}(\.json)?|(train|heldout)-\d{6,}\.json|.+\.tmp|\.nfs.+")
WORK_REMEDY = "start the preparation again (overwrite=true, or remove the folder)"


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workspace:
    """Paths in the output folder. `folder` and all below it are removed when the dataset is finished."""

    output: Path

    @property
    def folder(self) -> Path:
        """The work folder."""
        return self.output / ".work"

    @property
    def plan(self) -> Path:
        """The saved PrepPlan."""
        return self.folder / "plan.json"

    @property
    def merge_record(self) -> Path:
        """The MergeRecord: it exists once pass 2 is done."""
        return self.folder / "merge.json"

    @property
    def bounds(self) -> Path:
        """The folder of the shards' bounds."""
        return self.folder / "bounds"

    @property
    def index(self) -> Path:
        """The dataset's index: it exists once the dataset is finished."""
        return self.output / INDEX

    @property
    def identity(self) -> Path:
        """Options and inputs of the finished dataset, by which a rerun is recognised."""
        return self.output / IDENTITY

    def unit_folder(self, number: int) -> Path:
        """Return the folder of a unit's spills."""
        return self.folder / f"unit-{number:06d}"

    def unit_record(self, number: int) -> Path:
        """Return the path of a unit's UnitRecord, which exists once the unit is encoded."""
        return self.folder / f"unit-{number:06d}.json"

    def shard_record(self, split: str, number: int) -> Path:
        """Return the path of a shard's index entry, which exists once the shard is written."""
        return self.folder / f"{split}-{number:06d}.json"

    def remove_units(self, numbers: Sequence[int]) -> None:
        """Remove what is encoded of these units, the records first."""
        for number in numbers:
            self.unit_record(number).unlink(missing_ok=True)
            shutil.rmtree(self.unit_folder(number), ignore_errors=True)

    def temporary_folder(self, name: str) -> Path:
        """Make and return a temporary folder, whose content counts only once it is renamed."""
        return Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=self.folder))

    def clear_temporaries(self) -> None:
        """Remove what killed processes left half-written, and no other file. Nobody else may be at work here."""
        for path in self.folder.glob("*.tmp"):  # all in this folder is ours
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        self._clear_torn([INDEX, *LEXICON_FILES, SKIPPED, self.identity.name])

    def clear_torn_shards(self) -> None:
        """Remove what killed tasks left of shards that others have written since."""
        self._clear_torn([])

    def _clear_torn(self, names: Sequence[str]) -> None:
        """Remove the temporaries in the output folder of shards and of files with these names."""
        for path in self.output.iterdir():
            name = temporary_of(path.name)
            if name is not None and (name in names or SHARD.fullmatch(name) is not None):
                path.unlink(missing_ok=True)

    def clear_work(self) -> None:
        """Remove the work folder; finished files stay in the output folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clear_dataset(self) -> None:
        """Remove every file of a dataset from the output folder, the index first; other files stay."""
        self.folder.mkdir(parents=True, exist_ok=True)  # marks the files left as ours, if this is interrupted
        self.index.unlink(missing_ok=True)
        for name in (*LEXICON_FILES, SKIPPED, self.identity.name):
            (self.output / name).unlink(missing_ok=True)
        for split in SPLITS:
            for path in self.output.glob(f"{split}-[0-9][0-9][0-9][0-9][0-9][0-9]*.tar"):
                path.unlink()
        self.clear_work()

    def refuse_foreign_files(self) -> None:
        """Raise DataError if the output folder holds files and neither a dataset nor unfinished work.

        Nor may it hold an index or a work folder of another program, which overwrite=true would remove.
        """
        if self.index.exists():
            foreign = [] if self.identity.exists() or self._is_our_index() else [INDEX]
        elif self.folder.exists():
            names = (path.name for path in self.folder.iterdir())
            foreign = [f"{self.folder.name}/{name}" for name in names if not _WORK_FILES.fullmatch(name)]
        else:
            foreign = [path.name for path in self.output.iterdir() if path.name != LOCK]
        if foreign:
            raise DataError(f"output {self.output} holds {min(foreign)} and is no dataset; name a new or empty folder")

    def _is_our_index(self) -> bool:
        with self.index.open("rb") as file:
            return FORMAT.encode() in file.read(1 << 12)

    @contextmanager
    def locked(self, shared: bool) -> Iterator[None]:
        """Keep other processes from preparing into this folder (shared: except tasks of the same job array).

        A file is locked, not the folder: NFS and Lustre keep locks of folders to one machine.
        """
        if self.output.exists() and not self.output.is_dir():
            raise DataError(f"output {self.output} is a file; name a folder for the dataset")
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / LOCK).open("a+") as file:
            try:
                lock_file(file, shared)
            except BlockingIOError:
                raise DataError(f"another process is preparing into {self.output}; wait for it or stop it") from None
            except OSError as error:
                log.warning("%s has no file locks (%s): prepare into it once at a time", self.output, error.strerror)
            yield
