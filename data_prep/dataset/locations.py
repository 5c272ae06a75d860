"""Locations: a local path, or a URL with a known scheme. Nothing else is opened, and nothing reaches a shell.

A word followed by a colon, such as `pipe:` or `ssh:`, is a scheme unless a file or folder of that name exists here.
`./NAME` is always a local path.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCHEMES = ("file", "http", "https", "s3", "gs", "hf")
_STORES = ("s3", "gs")  # to which this project writes
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_KNOWN_URL = re.compile(rf"({'|'.join(SCHEMES)})://", re.IGNORECASE)


def is_url(location: str) -> bool:
    """Return True for a URL that this project opens, False for a local path. Raises DataError for anything else."""
    found = _SCHEME.match(location)
    if found is None or (_KNOWN_URL.match(location) is None and os.path.lexists(location)):
        return False
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise _refusal(
            f"{location!r} does not exist here, and {scheme}: is no scheme that elmo opens; use one of "
            f"{', '.join(SCHEMES)}, or write ./{location} for a local file"
        )
    _check_url(location, scheme)
    return True


def local_path(location: str | Path, name: str = "") -> Path:
    """Return the path of a location that must be local, `~` expanded. name: the option that holds the location.

    Raises DataError for a URL, which would otherwise become a folder named "s3:".
    """
    location = os.fspath(location)
    found = _SCHEME.match(location)
    if found is not None and (_KNOWN_URL.match(location) is not None or not os.path.lexists(location)):
        where = f"{name}={location}" if name else location
        otherwise = "" if _KNOWN_URL.match(location) else f", or write ./{location} if it is one"
        raise _refusal(
            f"{where} looks like a URL and must be a local path; copy the files here or mount the storage{otherwise}"
        )
    return Path(os.path.expanduser(location))


def path_on_this_node(location: str, name: str) -> Path:
    """Return local_path of a location in which variables of the environment stand, as $SLURM_TMPDIR.

    Raises DataError too for a variable that is not set here: a folder of its name would be made in its place.
    """
    expanded = os.path.expandvars(location)
    unset = _VARIABLE.search(expanded)
    if unset is not None:
        where = f"{name}={location}"
        raise _refusal(f"{where} holds {unset[0]}, which is not set on this machine; name a local folder, as /tmp/elmo")
    return local_path(expanded, name)


def is_store_url(location: str) -> bool:
    """Return True for a URL of an object store, to which this project writes."""
    return location.lower().startswith(tuple(f"{scheme}://" for scheme in _STORES))


def store_url(location: str, name: str) -> str:
    """Return the URL of a folder in an object store, without a slash at its end. name: the option that holds it."""
    if not is_store_url(location):
        raise _refusal(
            f"{name}={location} is no address in an object store; write s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
        )
    is_url(location)  # raises for a URL that is not whole
    url = location.rstrip("/")
    if not urlsplit(url).path:
        raise _refusal(f"{name}={location} names a bucket alone; name a folder in it: {url}/FOLDER")
    return url


def file_of(url: str) -> Path | None:
    """Return the path that a file: URL names, None for any other URL."""
    return Path(unquote(urlsplit(url).path)) if urlsplit(url).scheme == "file" else None


def _check_url(url: str, scheme: str) -> None:
    if any(character.isspace() or not character.isprintable() for character in url) or "?" in url or "#" in url:
        raise _refusal(
            f"{url!r} holds white space, a control character, ? or #, but names of files are to be appended to it; "
            "use the plain address of the dataset's folder"
        )
    if scheme in _STORES and "@" in urlsplit(url).netloc:
        raise _refusal(
            f"a {scheme}:// URL must not hold credentials before @; give them to the library of {scheme} in its "
            "environment variables or files"
        )
    if scheme == "file":
        if re.fullmatch(r"file:(//)?/[^/].*", url, re.IGNORECASE) is None:
            raise _refusal(f"{url} names no file; write file:///absolute/path, or the path alone")
    elif _KNOWN_URL.match(url) is None or not urlsplit(url).netloc:
        raise _refusal(f"{url} is no whole address; write {scheme}://{re.sub(r'^[^:]*:/*', '', url) or 'HOST/PATH'}")


def _refusal(message: str) -> ValueError:
    from data_prep.dataset.files import DataError  # imports NumPy, for which `elmo -h` should not wait

    return DataError(message)
