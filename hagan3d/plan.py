"""`hagan3d plan`: what a run needs, known before it starts and without a GPU: memory, cost, data read."""

import sys

from hagan3d import cli
from hagan3d.run_settings import parse_run

DESCRIPTION = """Predict what a run needs on a card of given memory, without running it and without a GPU: peak memory
with its margin, the largest batch, the cheapest change that makes it fit, operations, and data read."""
EXAMPLES = (
    "hagan3d plan --config hagan_256 --vram 16GB",
    "hagan3d plan --config hagan_512 --vram 12GB --train.batch_size 2",
    "hagan3d plan --config hagan_128 --data.store lungs.h5 --vram 8GB",
)


def main(argv: list[str]) -> None:
    """Parse, count, print."""
    config, options = parse_run("plan", DESCRIPTION, EXAMPLES, argv, add_options)
    vram = cli.parse_bytes("--vram", options.vram)
    from rich.console import Console

    from hagan3d.data.store.store import Store
    from hagan3d.engine.memory_plan import Plan
    from hagan3d.engine.plan_report import cost_lines, memory_lines
    from hagan3d.methods.registry import make_method

    store = Store(config.data.store) if config.data.store else None
    if store is not None:
        make_method(config).check_store(store)
    kind = "cpu" if config.train.device == "cpu" else "cuda"
    plan = Plan(config, make_method(config).num_classes(store), kind)
    with Console(stderr=True).status("counting peak memory on fake tensors") as status:
        lines = memory_lines(plan, vram)
        status.update("counting operations")
        lines += ["", *cost_lines(plan, store)]
    print("\n".join(lines))


def add_options(parser: cli.Parser) -> None:
    """Add the options of this command to the parser."""
    parser.add_argument("--vram", type=str, default="16GB", help="Memory of the card, such as 16GB.")


if __name__ == "__main__":
    sys.exit(cli.run(main))
