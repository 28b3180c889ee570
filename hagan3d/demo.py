"""`hagan3d demo`: the whole chain on phantoms, in a few minutes on a CPU: make, prepare, train, generate, encode."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hagan3d import cli

DESCRIPTION = """Make phantoms of the thorax, prepare a store of them, train a small HA-GAN at 32^3, generate volumes
and encode the real ones. Each step is a command, and is shown; run again, what is done is not done again."""
EXAMPLES = ("hagan3d demo", "hagan3d demo --steps 2000 --out runs/longer")
CONFIG = "hagan_demo"
SHOWN = 6  # volumes of each kind in samples.png


def main(argv: list[str]) -> None:
    """Parse, run the commands, say what was made and what to do next."""
    parser = cli.parser("demo", DESCRIPTION, EXAMPLES)
    parser.add_argument("--out", type=str, default="runs/demo", help="Folder of the run.")
    parser.add_argument("--steps", type=int, default=600, help="Training steps.")
    parser.add_argument("--num", type=int, default=160, help="Phantoms to make.")
    a = parser.parse_args(argv)
    out, started = Path(a.out), time.monotonic()
    for name, command, line in commands(out, a.steps, a.num):
        print(f"\n$ hagan3d {name} {line}", flush=True)
        command(shlex.split(line))
    write_samples(out)
    print(f"\nthe demo took {(time.monotonic() - started) / 60:.1f} minutes and left in {out}:")
    print("  samples.png             real and generated phantoms, three planes of each")
    print("  samples/*.nii.gz        generated volumes in HU, to open in any viewer (samples/samples.png: a sheet)")
    print("  checkpoints/, config.yaml, metrics.jsonl, tensorboard/, previews/   the run")
    print("  features/features.csv   latents of the real phantoms")
    print("\nnext, with your own scans:")
    program = cli.path_word(installed())
    print(f"  {program} prepare --input SCANS/ --output scans.h5 --size 64 64 64")
    print(f"  {program} train --config hagan_64 --data.store scans.h5 --out runs/scans")


def installed() -> Path:
    """Return the command of this installation: its name where it is the one on the path, else its path."""
    own = Path(sys.executable).with_name("hagan3d")
    if not own.exists() or shutil.which(own.name) == str(own):
        return Path(own.name)
    return own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own


def commands(out: Path, steps: int, num: int) -> list[tuple[str, Callable[[list[str]], None], str]]:
    """Return the commands of the demo: name, function, arguments."""
    from hagan3d import encode, generate, phantoms, prepare, train

    store, phantoms_in, run = (cli.path_word(path) for path in (out / "phantoms.h5", out / "phantoms", out))
    made, features = cli.path_word(out / "samples"), cli.path_word(out / "features")
    return [
        ("phantoms", phantoms.main, f"--num {num} --size 32 32 32 --out {phantoms_in}"),
        (
            "prepare",
            prepare.main,
            f"--input {phantoms_in}/volumes --output {store} --size 32 32 32 --intensity window "
            f"--window -1024 600 --labels {phantoms_in}/attributes.csv",
        ),
        (
            "train",
            train.main,
            f"--config {CONFIG} --data.store {store} --out {run} --train.steps {steps}",
        ),
        ("generate", generate.main, f"{run} --num 12 --out {made} --force"),
        ("encode", encode.main, f"{run} --input {store} --out {features} --reconstruct --force"),
    ]


def write_samples(out: Path) -> None:
    """Write samples.png: real volumes next to the generated files, as they are on disk."""
    import nibabel as nib

    from hagan3d.checkpoint import load_model
    from hagan3d.data.pictures import comparison_sheet
    from hagan3d.data.preprocess.intensity import normalize
    from hagan3d.data.store.store import Store

    store = Store(out / "phantoms.h5")
    model = load_model(out)
    real = [store.channel(int(i)).numpy() for i in store.indices("train")[:SHOWN]]
    files = sorted((out / "samples").glob("volume-*.nii.gz"))[:SHOWN]
    description = model.description
    generated = [
        normalize(nib.Nifti1Image.from_filename(file).get_fdata().transpose(2, 1, 0), *description.channels[0].interval)
        for file in files
    ]
    comparison_sheet({"real": real, "generated": generated}, description.affine_array, out / "samples.png")


if __name__ == "__main__":
    sys.exit(cli.run(main))
