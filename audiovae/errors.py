"""The one exception for things that come from outside and cannot be used, and how others' are told."""


class InputError(ValueError):
    """A file, option or checkpoint can't be used.

    The message is one line that names it and the reason, fit to be shown to a person as it stands.
    """


def in_one_line(error: BaseException, most: int = 200) -> str:
    """What another library says of an error, for the end of our own line: it may have many, and be long."""
    return " ".join(str(error).split())[:most]
