"""`elmo slurm`: copy the scripts of slurm/ out of the package, for a machine without a clone."""

import re
from pathlib import Path

from data_prep.dataset.files import write_bytes
from data_prep.dataset.locations import local_path
from pipeline.config.commands import SlurmConfig
from pipeline.config.packaged import packaged_folder
from pipeline.config.schema import ConfigError

_SCRIPT = re.compile(r".*\.(sbatch|sh|py)")


def copy_scripts(config: SlurmConfig) -> str:
    """Write DIR/slurm/ and return what to do next. Raises ConfigError if a script there has other content."""
    folder = local_path(config.copy, "copy") / "slurm"
    scripts = [path for path in sorted(packaged_folder("slurm").iterdir()) if _SCRIPT.fullmatch(path.name)]
    changed = [path.name for path in scripts if _differs(folder / path.name, path.read_bytes())]
    if changed and not config.overwrite:
        raise ConfigError(
            f"{folder} has other scripts named {', '.join(changed)}; give another folder, or overwrite=true"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for script in scripts:
        write_bytes(folder / script.name, script.read_bytes())
        (folder / script.name).chmod(0o755)
    return f"{len(scripts)} scripts in {folder}\nNext: {folder}/submit.sh small data.path=DATASET run.dir=RUN"


def _differs(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() != content
