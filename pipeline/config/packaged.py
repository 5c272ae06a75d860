"""The folders configs/ and slurm/ that come with this package: beside it in a clone, inside it from a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def packaged_folder(name: str) -> Path:
    """Return the folder `configs` or `slurm`."""
    inside, beside = _PACKAGE / name, _PACKAGE.parent / name
    return inside if inside.is_dir() else beside


def config_names() -> list[str]:
    """Return the names by which commands take the configs of the package: small, tasks/small, ..."""
    folder = packaged_folder("configs")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def find_config(name: str) -> str | None:
    """Return the file of the config that the package has under this name, None if there is none."""
    return str(packaged_folder("configs") / f"{name}.yaml") if name in config_names() else None
