"""A location is a local path or a URL of a known scheme. No other location is opened, and none reaches a shell."""

from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import SCHEMES, file_of, is_url, local_path
from data_prep.dataset.open import open_dataset


@pytest.mark.parametrize("scheme", SCHEMES)
def test_urls_of_known_schemes_are_recognised(scheme: str) -> None:
    location = f"{scheme}:///a/b" if scheme == "file" else f"{scheme}://host/a/b"
    assert is_url(location) and is_url(location.replace(scheme, scheme.upper(), 1))


@pytest.mark.parametrize(
    "location", ["a", "a/b", "/a:b", "./pipe:x", "../s3://b", "~/a:b", "c:/x", "", "-", "a b:c", "a/b:c", "2:x"]
)
def test_paths_are_not_taken_for_urls(location: str) -> None:
    assert not is_url(location) and str(local_path(location)) == str(Path(location).expanduser())


@pytest.mark.parametrize(
    "location",
    [
        "pipe:touch /tmp/x #", "pipe:cat x", "ssh://host/x", "ssh:host", "ftp://host/x", "data:,x", "simplecache::s3://b/x",
        "nonsense://a/b", "htp:/x",
    ],
)  # fmt: skip
def test_other_schemes_are_refused_with_a_list_of_the_known_ones(location: str) -> None:
    with pytest.raises(
        DataError, match="is no scheme that elmo opens; use one of file, http, https, s3, gs, hf"
    ) as error:
        is_url(location)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http:/host/x", "is no whole address; write http://host/x"),
        ("http:host", "write http://host"),
        ("s3:///x", "is no whole address"),
        ("http://", "is no whole address"),
        ("http://host/x?y=1", "white space, a control character, [?] or #"),
        ("http://host/x#y", "or #"),
        ("http://host/x\r\nHost: other", "white space"),
        ("hf://datasets/a b", "white space"),
        ("file:x", "write file:///absolute/path"),
        ("file://x/y", "write file:///absolute/path"),
        ("file:", "write file:///absolute/path"),
    ],
)
def test_damaged_urls_are_refused_in_one_sentence(location: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        is_url(location)


def test_a_local_file_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "part:0.txt").write_text("a\n")
    assert not is_url("part:0.txt") and local_path("part:0.txt") == Path("part:0.txt")


@pytest.mark.parametrize("location", ["s3://bucket/run", "http:/host", "gs:x", "pipe:x", "FILE:///x", "weird:x"])
def test_where_a_local_path_is_needed_anything_like_a_url_is_refused(location: str) -> None:
    with pytest.raises(DataError, match=f"run.dir={location} looks like a URL and must be a local path"):
        local_path(location, "run.dir")


def test_a_file_url_names_a_path() -> None:
    assert file_of("file:/a/b") == file_of("file:///a/b") == Path("/a/b")
    assert file_of("file:///a%20b%25") == Path("/a b%") and file_of("http://host/a") is None


def test_no_location_reaches_a_shell(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pipe: is no scheme"):
        open_dataset(f"pipe:touch {tmp_path}/made #")
    assert not (tmp_path / "made").exists()
