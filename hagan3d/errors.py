"""The one exception that is the user's to mend."""


class InputError(ValueError):
    """Bad input: a file, an option or a config that cannot work.

    The message says what is wrong, with which file or key, why, and what to do. Doors print it as one line and exit
    with status 2; everything else that raises is a bug and keeps its traceback.
    """
