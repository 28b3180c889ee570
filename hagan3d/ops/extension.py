"""The compiled libraries: loaded once, and what to say where they are missing."""


def backend() -> str:
    """Say in one line what computes the operators of this process, for a run's log."""
    return "PyTorch references (extension not built)"
