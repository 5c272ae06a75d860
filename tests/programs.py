"""Programs that come with packages of the test environment."""

from importlib.metadata import distribution


def program(name: str, package: str = "") -> str:
    """Return the path of a program of a package, by default of the package with its name."""
    files = distribution(package or name).files or []
    return next(str(file.locate().resolve()) for file in files if file.name == name and file.parent.name == "bin")
