"""Read JSON files into typed values; refuse anything else in one sentence.

A schema is a dataclass, a TypedDict or any other type that pydantic supports. The schema holds the bounds of values, as
annotations of annotated_types: `Count`, `FileName` and `Sha256` below cover most of what this project stores.
"""

import re
import reprlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from annotated_types import Ge, Le, Predicate

from data_prep.dataset.files import DataError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
MAX_JSON_BYTES = 1 << 30  # an index of 30 M sentences has 2 MB
_SHOWN_CHARACTERS = 80
_SHOWN = reprlib.Repr()  # for values that may be nested deeply
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = _SHOWN_CHARACTERS


def is_file_name(name: str) -> bool:
    """Return whether `name` names a file in one folder: no separator, not hidden, nothing that leaves the folder."""
    return re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,199}", name, re.ASCII) is not None


def _is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


FileName = Annotated[str, Predicate(is_file_name)]
Sha256 = Annotated[str, Predicate(_is_sha256)]
Count = Annotated[int, Ge(0), Le(1 << 60)]
"""A number of bytes, tokens, sentences or steps. The bound lets a sum of several fit 64 bits."""


def load_json(path: Path, schema: Any, remedy: str, error: type[ValueError] = DataError) -> Any:
    """Return the value of type `schema` in the JSON file at `path`.

    remedy: what the user should do, the end of the error's sentence. Raises `error` for a file that is not JSON of this
    type, OSError for a file that cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise error(f"{path} has {size:,} bytes, too many for what it should hold; {remedy}")
    return parse_json(path.read_bytes(), schema, str(path), remedy, error)


def parse_json(data: bytes, schema: Any, name: str, remedy: str, error: type[ValueError] = DataError) -> Any:
    """Return the value of type `schema` that `data` holds. name: the data's name in the error."""
    from pydantic import ValidationError

    try:
        return _adapter(schema).validate_json(data, strict=True)
    except ValidationError as found:
        raise error(f"{name} is damaged ({_first_fault(found)}); {remedy}") from None


def check_value(value: Any, schema: Any, name: str, remedy: str, error: type[ValueError] = DataError) -> None:
    """Raise `error` if a value that does not come from JSON is not of type `schema`."""
    from pydantic import ValidationError

    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as found:
        raise error(f"{name} is damaged ({_first_fault(found)}); {remedy}") from None


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # takes a tenth of a second, which commands without JSON should not pay

    return TypeAdapter(schema)


def _first_fault(found: Any) -> str:
    fault = found.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "value_error":  # raised by the schema's own __post_init__: already a whole sentence
        return str(fault["msg"]).removeprefix("Value error, ")
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] in ("json_invalid", "missing", "unexpected_keyword_argument"):
        return f"{where}: {message}" if where else message
    value = " ".join(_SHOWN.repr(fault["input"]).split())  # a tensor takes several lines
    shown = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…"
    return f"{where or 'the whole'} is {shown}: {message}"
