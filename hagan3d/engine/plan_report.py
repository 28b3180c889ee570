"""The plan of a run as text."""

from hagan3d.data.store.store import Store
from hagan3d.engine.margins import current_margins
from hagan3d.engine.memory_plan import LARGEST_BATCH, Plan, advice

GB = 1e9


def memory_lines(plan: Plan, vram: int) -> list[str]:
    """Return lines on memory: the peak of each phase, the margin, whether it fits, the largest batch."""
    peaks = ", ".join(f"{name} {peak / GB:.2f}" for name, peak in plan.peaks.items())
    lines = [
        f"peak memory of tensors {plan.peak / GB:.2f} GB ({peaks})",
        f"memory of the card     {plan.needed / GB:.2f} GB ({current_margins()})",
    ]
    batch = plan.config.train.batch_size
    if not plan.fits(vram):
        lines.append(f"does not fit           {advice(plan, vram)}")
    else:
        lines.append(f"fits                   {vram / GB:.1f} GB, with {(vram - plan.needed) / GB:.2f} GB to spare")
    largest = plan.largest_batch(vram)
    shown = f"{largest} or more" if largest == LARGEST_BATCH else largest or "none"
    lines.append(f"largest batch          {shown} without accumulation (now {batch})")
    return lines


def cost_lines(plan: Plan, store: Store | None) -> list[str]:
    """Return lines on cost: operations, bytes read, and epochs over the volumes of a store."""
    train = plan.config.train
    counts = {phase.name: phase.count(train.steps) for phase in plan.method.training_phases()}
    flops = sum(count * counts[name] for name, count in plan.flops.items())
    phases = ", ".join(f"{name} {count / 1e9:.0f}" for name, count in plan.flops.items())
    mean, read = flops / train.steps / 1e9, plan.method.bytes_per_step(store.size if store else None)
    lines = [
        f"a step                 {mean:.0f} GFLOP ({phases}), reads {read / 1e6:.1f} MB of voxels",
        f"the run                {train.steps} steps, {flops / 1e15:.1f} PFLOP, "
        f"reads {read * train.steps / 1e12:.2f} TB of voxels",
    ]
    if store:
        source, seen = plan.method.batches(store, train.batch_size), train.steps * train.batch_size
        epochs = f"{seen / source.epoch:.0f} ({seen} samples, of {source.num_volumes} volumes to train on)"
        lines.append(f"epochs                 {epochs}")
    return lines
