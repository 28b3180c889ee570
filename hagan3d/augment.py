"""`hagan3d augment`: a store, or a data set for nnU-Net, of real volumes and of generated ones."""

import sys
from pathlib import Path

from hagan3d import cli
from hagan3d.errors import InputError

DESCRIPTION = """Write a store with all volumes of a store, in their splits, and generated ones of every class: for
training only, marked as generated, never held out. The run must have been trained with classes, or with label maps, on
the training volumes of that store. Writes a picture of both next to the new store. With --nnunet, writes a data set
that nnU-Net reads instead; held-out volumes become its test cases."""
EXAMPLES = (
    "hagan3d train --config classes.yaml --data.store lungs.h5 --out runs/lungs     # a config with conditional: true",
    "hagan3d augment runs/lungs --store lungs.h5 --per-class 100 --out more.h5",
    "hagan3d augment runs/hippocampus --store hippocampus.h5 --per-class 200 --nnunet Dataset104_Generated/",
    "hagan3d augment runs/lungs --store more.h5 --per-class 50 --first-seed 500 --out most.h5",
)


def main(argv: list[str]) -> None:
    """Parse, generate, print where the store is."""
    parser = cli.parser("augment", DESCRIPTION, EXAMPLES)
    cli.add_run_options(parser)
    parser.add_argument("--store", type=str, required=True, help="The store with the real volumes.")
    parser.add_argument("--out", type=str, help="Store to write, a name that ends in .h5.")
    parser.add_argument("--nnunet", type=str, help="Folder of an nnU-Net data set to write, instead of --out.")
    parser.add_argument("--per_class", type=int, default=100, help="Number of volumes of each class, or of all.")
    parser.add_argument("--first_seed", type=int, default=0, help="Seed of the first; others follow, class by class.")
    parser.add_argument("--truncation", type=float, default=1.0, help=cli.TRUNCATION)
    parser.add_argument("--force", action="store_true", help="Replace the store that is at --out already.")
    a = parser.parse_args(argv)
    if (a.out is None) == (a.nnunet is None):
        raise InputError("--out, --nnunet: use one of them")
    from hagan3d.checkpoint import load_model
    from hagan3d.data.store.store import Store
    from hagan3d.inference import augmentation, nnunet
    from hagan3d.inference.devices import inference_device

    out, generated = Path(a.out or a.nnunet), augmentation.GeneratedSet(a.per_class, a.first_seed, a.truncation)
    if a.out:
        augmentation.check_out(out, Path(a.store), a.force)
    else:
        nnunet.check_folder(out, a.force)
    store = Store(a.store)
    model = load_model(Path(a.run), a.weights, inference_device(a.device), generate=True)
    warning = augmentation.origin_warning(model, store)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    progress = cli.progress("augment", a.per_class * len(augmentation.classes_of(model, store)))
    if a.nnunet:
        cases = nnunet.write_nnunet(model, store, out, generated, progress)
        print(f"{cases} training cases, real and generated (see {out / nnunet.CASES}): {out}")
        print("next: put it into nnUNet_raw as DatasetXXX_NAME, then nnUNetv2_plan_and_preprocess -d XXX")
        return
    result = augmentation.augment(model, store, out, generated, progress)
    count = int(result.generated.sum())
    picture = augmentation.picture_of(out)
    print(f"{len(result) - count} real and {count} generated volumes (for training only): {out}, {picture}")
    print(f"next: hagan3d train --config CONFIG --data.store {cli.path_word(out)} --out RUN, or any classifier")


if __name__ == "__main__":
    sys.exit(cli.run(main))
