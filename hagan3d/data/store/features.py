"""The files of feature extractors trained on a store, next to it."""

from pathlib import Path

from hagan3d.data.io.files import file_name
from hagan3d.data.store.store import Store


def features_path(store: Store, channel: int = 0) -> Path:
    """Return the path of the features file of an image channel of a store."""
    name = f".{file_name(store.channels[channel])}" if len(store.channels) > 1 else ""
    return store.path.with_name(f"{store.path.stem}{name}.features.pt")
