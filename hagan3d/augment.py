"""`hagan3d augment`: a store of real volumes and, class by class, of generated ones."""

import sys
from pathlib import Path

from hagan3d import cli

DESCRIPTION = """Write a store with all volumes of a store, in their splits, and generated ones of every class: for
training only, marked as generated, never held out. The run must have been trained with classes on the training volumes
of that store. Writes a picture of both next to the new store."""
EXAMPLES = (
    "hagan3d train --config classes.yaml --data.store lungs.h5 --out runs/lungs     # a config with conditional: true",
    "hagan3d augment runs/lungs --store lungs.h5 --per-class 100 --out more.h5",
    "hagan3d augment runs/lungs --store more.h5 --per-class 50 --first-seed 500 --out most.h5",
)


def main(argv: list[str]) -> None:
    """Parse, generate, print where the store is."""
    parser = cli.parser("augment", DESCRIPTION, EXAMPLES)
    cli.add_run_options(parser)
    parser.add_argument("--store", type=str, required=True, help="The store with the real volumes.")
    parser.add_argument("--out", type=str, required=True, help="Store to write, a name that ends in .h5.")
    parser.add_argument("--per_class", type=int, default=100, help="Number of volumes of each class.")
    parser.add_argument("--first_seed", type=int, default=0, help="Seed of the first; others follow, class by class.")
    parser.add_argument("--truncation", type=float, default=1.0, help=cli.TRUNCATION)
    parser.add_argument("--force", action="store_true", help="Replace the store that is at --out already.")
    a = parser.parse_args(argv)
    from hagan3d.checkpoint import load_model
    from hagan3d.data.store.store import Store
    from hagan3d.inference.augmentation import GeneratedSet, augment, check_out, origin_warning, picture_of
    from hagan3d.inference.devices import inference_device

    out, generated = Path(a.out), GeneratedSet(a.per_class, a.first_seed, a.truncation)
    check_out(out, Path(a.store), a.force)
    store = Store(a.store)
    model = load_model(Path(a.run), a.weights, inference_device(a.device), generate=True)
    warning = origin_warning(model, store)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    progress = cli.progress("augment", a.per_class * len(store.class_names))
    result = augment(model, store, out, generated, progress)
    count = int(result.generated.sum())
    print(f"{len(result) - count} real and {count} generated volumes (for training only): {out}, {picture_of(out)}")
    print(f"next: hagan3d train --config CONFIG --data.store {out} --out RUN, or any classifier")


if __name__ == "__main__":
    sys.exit(cli.run(main))
