"""Open a dataset: in a folder, in copies on this node, or behind a URL."""

import os
from pathlib import Path

from data_prep.dataset import remote, staging
from data_prep.dataset.index import files_in, read_index
from data_prep.dataset.locations import is_url, local_path
from data_prep.dataset.shards import Dataset, check_size, locate_in, readable


def open_dataset(
    location: str | Path, cache_dir: str | Path | None = None, stage_dir: str | Path | None = None
) -> Dataset:
    """Return the dataset in a folder or behind a URL, after a check of index, lexicon and sizes of shards.

    cache_dir: folder on this node for the files of a URL dataset (default: remote.default_cache_dir()).
    stage_dir: folder on this node to which the files of a folder are copied, each on first use (default: read in
    place). Raises DataError for a folder without a dataset, another format version, and missing or damaged files.
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
