"""Open a dataset where it lies: in a folder, in copies on this node, or behind a URL."""

import os
from pathlib import Path

from data_prep.dataset import remote, staging
from data_prep.dataset.index import files_in, read_index
from data_prep.dataset.locations import is_url, local_path
from data_prep.dataset.shards import Dataset, check_size, locate_in, readable


def open_dataset(
    location: str | Path, cache_dir: str | Path | None = None, stage_dir: str | Path | None = None
) -> Dataset:
    """Return the dataset in a folder or behind a URL: its index and lexicon are checked, and the sizes of its shards.

    cache_dir: where files of a URL dataset are kept on this node (default: remote.default_cache_dir()).
    stage_dir: where files of a folder are copied to, each when it is first used (default: they are read in place).
    Raises DataError for a folder that holds no dataset, another format version, a missing, short or damaged file.
    """
    if is_url(str(location)):
        return remote.open_remote(str(location), cache_dir)
    folder = Path(os.path.expanduser(location))
    with readable(folder):
        index = read_index(folder)
        for name, entry in files_in(index).items():
            check_size(folder / name, entry["bytes"])
        if stage_dir:
            return staging.open_staged(folder, index, local_path(stage_dir, "data.stage_dir"))
        return Dataset.from_index(str(location), index, folder, locate_in(folder))
