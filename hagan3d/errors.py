"""The exception for errors that the user can fix (bad input, settings, files)."""


class InputError(ValueError):
    """Bad input: a file, an option or a config that cannot work.

    The message says what is wrong, with which file or setting, why, and what to do. Commands print it as one line and
    exit with status 2; everything else that raises is a bug and keeps its traceback.
    """
