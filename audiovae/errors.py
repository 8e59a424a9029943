"""The one exception for things that come from outside and cannot be used."""


class InputError(ValueError):
    """A file, option or checkpoint can't be used.

    The message is one line that names it and the reason, fit to be shown to a person as it stands.
    """
