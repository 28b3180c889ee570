"""What a store must hold for the sources of a run: pairs, domains, or volumes of which sources are simulated."""

from hagan3d.config import DegradeConfig
from hagan3d.data.store.store import Store
from hagan3d.errors import InputError


def check_degradation(store: Store, degrade: DegradeConfig) -> None:
    """Raise InputError unless a store has the pairs, domains or volumes that `degrade` needs."""
    path, registers = store.path, degrade.kind == "misalign"
    if degrade.active and ((store.has_sources and not registers) or store.has_domains):
        raise InputError(
            f"{path}: holds sources of its own; use --data.degrade.kind none, or a store of single volumes"
        )
    if not degrade.active and not store.has_sources and not store.has_domains:
        raise InputError(
            f"{path}: holds no pairs; make some with `hagan3d prepare --pairs` (--domains: unpaired), "
            "or simulate sources with --data.degrade.kind"
        )
    if degrade.kind == "copy" and store.has_label_maps:
        raise InputError(f"{path}: holds label maps, and --data.degrade.kind copy makes sources of images")
    if degrade.kind == "motion" and degrade.moves >= store.size[1]:
        raise InputError(
            f"data.degrade.moves {degrade.moves}: must be below the {store.size[1]} planes along H of {path}"
        )
    names = max(store.channels + store.label_names, store.source_channels, key=len)
    if degrade.changes and len(names) > 1:
        # noise would have to be independent in each channel, motion and k-space masks common to all
        raise InputError(
            f"{path}: a simulated source has one channel, but its volumes have {len(names)} ({', '.join(names)}); "
            "prepare a store of one of them"
        )
