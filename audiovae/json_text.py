"""JSON that every reader takes."""

import json
import math
from collections.abc import Mapping


def to_json(value: object, *, indent: int | None = None) -> str:
    """A value as JSON; what JSON has no word for (NaN, and infinity as the level of silence) becomes null.

    A byte of a file name that isn't UTF-8 stands as \\xff.
    """
    return json.dumps(_representable(value), indent=indent, allow_nan=False)


def _representable(value: object) -> object:
    if isinstance(value, Mapping):
        return {_representable(name): _representable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_representable(part) for part in value]
    if isinstance(value, str):
        # A file name may hold bytes that are no text, which not every reader takes.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
