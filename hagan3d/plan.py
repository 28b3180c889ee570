"""`hagan3d plan`: what a run takes, known before it runs and without a GPU: memory, cost, data read."""

import sys

from hagan3d import cli
from hagan3d.config import Config
from hagan3d.data.store.store import Store
from hagan3d.engine.memory_plan import CONTEXT, FRAGMENTATION, LARGE, WORKSPACE, Plan, advice
from hagan3d.methods.registry import make_recipe

DESCRIPTION = """Predict what a run takes on a card of given memory, without running it and without a GPU: peak memory
with its margin, the largest batch, the cheapest change that makes it fit, operations, and data read."""
EXAMPLES = (
    "hagan3d plan --config configs/hagan_256.yaml --vram 16GB",
    "hagan3d plan --config configs/hagan_512.yaml --vram 12GB --train.batch_size 2",
    "hagan3d plan --config configs/hagan_128.yaml --data.store lungs.h5 --vram 8GB",
)
GB = 1e9


def main(argv: list[str]) -> None:
    """Parse, count, print."""
    parser = cli.parser("plan", DESCRIPTION, EXAMPLES)
    parser.add_argument("--config", action="config", help="YAML file of settings.")
    parser.add_argument("--vram", type=str, default="16GB", help="Memory of the card, such as 16GB.")
    parser.add_class_arguments(Config)
    arguments = parser.instantiate(parser.parse_args(argv))
    config = Config(**{name: getattr(arguments, name) for name in Config.__dataclass_fields__})
    vram = cli.parse_bytes("--vram", arguments.vram)
    store = Store(config.data.store) if config.data.store else None
    classes = len(store.class_names) if store and config.model.conditional else 0
    made = Plan(config, make_recipe, classes)
    volumes = len(store.indices(config.data.split)) if store else None
    print("\n".join([*memory_lines(made, vram), "", *cost_lines(made, volumes)]))


def memory_lines(plan: Plan, vram: int) -> list[str]:
    """Lines on memory: the peak of each phase, the margin, whether it fits, the largest batch."""
    peaks = ", ".join(f"{name} {peak / GB:.2f}" for name, peak in plan.peaks.items())
    margin = f"{FRAGMENTATION:.0%} gaps, {WORKSPACE / GB:.2f} workspace, {CONTEXT / GB:.2f} context"
    lines = [
        f"live tensors at most   {plan.live / GB:.2f} GB ({peaks})",
        f"memory of the card     {plan.needed / GB:.2f} GB ({margin}: assumed, GPUs differ)",
    ]
    batch = plan.config.train.batch_size
    if not plan.fits(vram):
        lines.append(f"does not fit           {advice(plan, vram)}")
    else:
        lines.append(f"fits                   {vram / GB:.1f} GB, with {(vram - plan.needed) / GB:.2f} GB to spare")
    largest = plan.largest_batch(vram)
    shown = f"{largest} or more" if largest == LARGE else largest or "none"
    lines.append(f"largest batch          {shown} without accumulation (now {batch})")
    return lines


def cost_lines(plan: Plan, volumes: int | None) -> list[str]:
    """Lines on what the run costs: operations, passes over the data, bytes read."""
    train = plan.config.train
    times = {phase.name: phase.times(train.steps) for phase in plan.make_recipe(plan.config).phases}
    flops = sum(count * times[name] for name, count in plan.flops.items())
    phases = ", ".join(f"{name} {count / 1e9:.0f}" for name, count in plan.flops.items())
    mean = flops / train.steps / 1e9
    lines = [
        f"a step                 {mean:.0f} GFLOP ({phases}), reads {plan.bytes_read / 1e6:.1f} MB of voxels",
        f"the run                {train.steps} steps, {flops / 1e15:.1f} PFLOP, "
        f"reads {plan.bytes_read * train.steps / 1e12:.2f} TB of voxels",
    ]
    if volumes:
        seen = train.steps * train.batch_size
        lines.append(f"passes over the data   {seen / volumes:.0f} ({seen} volumes seen, {volumes} in the store)")
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(main))
