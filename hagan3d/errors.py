"""The exception for errors that the user can fix (bad input, settings, files)."""

LONGEST_LINE = 1000  # characters


class InputError(ValueError):
    """Bad input: a file, an option or a config that cannot work.

    The message says what is wrong, with which file or setting, why, and what to do. Commands print it as one line and
    exit with status 2; everything else that raises is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        """Take a message; text from files may be in it."""
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return a text without control characters, which a terminal would obey, and with its long lines shortened."""
    lines = ("".join(c if c.isprintable() else "?" for c in line) for line in text.split("\n"))
    half = LONGEST_LINE // 2
    return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}" for line in lines)


OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "unable to find an engine",  # cuDNN, if no algorithm fits the memory that is left
    "STATUS_ALLOC_FAILED",  # cuDNN, cuBLAS, cuFFT
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the machine or of the GPU was not enough.

    Libraries of NVIDIA report it in several ways, of which only one is `torch.OutOfMemoryError`.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, ImportError):  # of a compiled module that does not fit the address space
        return "failed to map segment" in str(error)
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def is_device_fault(error: BaseException) -> bool:
    """Return whether a kernel failed, after which this process cannot use the GPU any more."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)
