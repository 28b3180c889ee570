"""`hagan3d COMMAND ...`: the same as `python -m hagan3d.COMMAND ...`."""

import importlib
import sys

from hagan3d import __version__, cli

COMMANDS = {
    "prepare": "make a store from files (NIfTI, DICOM, NRRD, MetaImage, NumPy, images)",
    "plan": "count the memory and the operations of a run, and find settings that fit a card",
    "doctor": "check this installation on this machine: versions, operators, training steps, memory, speed",
    "train": "train a model on a store; the same command again resumes",
    "generate": "generate volumes, with the units and the geometry of the training data",
    "translate": "translate volumes to another modality or quality, with predicted uncertainty",
    "encode": "encode volumes to latents, and reconstruct them",
    "evaluate": "measure a model against held-out volumes: distances, variety, errors, a report",
    "explore": "find directions in latent space, walk along them and measure the result",
    "augment": "make a store or an nnU-Net data set of real and generated volumes",
    "phantoms": "make phantoms of thorax or head with known attributes and label maps",
    "demo": "run prepare, train, generate and encode on phantoms, in a few minutes",
}


def usage() -> str:
    """Return the text of `hagan3d --help`."""
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"hagan3d {__version__}: memory-efficient 3D generative models of medical volumes",
            "",
            "usage: hagan3d COMMAND [options]        hagan3d COMMAND --help explains each",
            "",
            *lines,
            "",
            "a first run:",
            "  hagan3d prepare --input scans/ --output scans.h5 --size 64 64 64",
            "  hagan3d train --config hagan_64 --data.store scans.h5 --out runs/scans",
            "  hagan3d generate runs/scans --num 8 --out volumes/",
        ]
    )


def versions() -> str:
    """Return the text of `hagan3d --version`: of the package, of torch and CUDA, and which operators are used."""
    import torch

    from hagan3d import ops

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    card = f"{cards} x {torch.cuda.get_device_name(0)}" if cards else "no GPU"
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return f"hagan3d {__version__}\ntorch {torch.__version__} ({cuda}), {card}\noperators: {ops.backend()}"


def main() -> int:
    """Run the command that is named first."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help", "help"):
        return cli.run(lambda _: print(usage()), rest)
    if name == "--version":
        return cli.run(lambda _: print(versions()), rest)
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return cli.run(lambda words: importlib.import_module(f"hagan3d.{name}").main(words), rest)


if __name__ == "__main__":
    sys.exit(main())
