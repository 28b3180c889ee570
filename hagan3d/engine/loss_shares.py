"""Shares of the terms of a loss in its gradient, and the weights that give terms the shares that a method asks for."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from hagan3d.data.io.files import write_text
from hagan3d.errors import InputError
from hagan3d.methods.phase import Phase, Weights


@dataclass(frozen=True)
class LossShare:
    """One term of the loss of a phase, in its first step."""

    phase: str
    term: str
    weight: float
    share: float
    """Norm of the gradient of the weighted term in the weights that learn, over the sum of these norms."""

    def __str__(self) -> str:
        """Describe it in a line."""
        return f"{self.phase}/{self.term}: weight {self.weight:.4g}, {100 * self.share:.3g} % of the gradient"


def loss_shares(phase: Phase, weights: Weights, norms: Mapping[str, float]) -> list[LossShare]:
    """Return the weight and the share of each term.

    A term with a target share s_j gets the weight w_j = s_j T / g_j, where g_j is the norm of its own gradient and T
    the sum of all weighted norms: T = (sum of w_k g_k over the other terms) / (1 - sum of s_j).

    Args:
        phase: The phase.
        weights: Weights of the terms without a target share; 1 for those that it does not name.
        norms: Norm of the gradient of each term without its weight.

    Raises:
        InputError: If a term with a target share has no gradient, or no other term has one; if no term has a weight.
    """
    weighted = {term: weights.get(term, 1.0) * norm for term, norm in norms.items() if term not in phase.shares}
    rest, asked = sum(weighted.values()), {term: share for term, share in phase.shares.items() if term in norms}
    total = rest / (1 - sum(asked.values()))
    for term, share in asked.items():
        if share > 0 and not (norms[term] > 0 and rest > 0):
            raise InputError(
                f"{phase.name}/{term}: has no gradient in the first step, so no weight gives it {share:g} of the "
                "whole; are sources and targets equal, or all other weights 0?"
            )
    if not asked and not any(weights.get(term, 1.0) for term in norms):
        raise InputError(
            f"the phase {phase.name} trains {', '.join(phase.updates)}, but the weights of all terms of its loss "
            f"({', '.join(norms)}) are 0; set one of them"
        )
    found = {term: share * total / norms[term] if share else 0.0 for term, share in asked.items()}
    shares = weighted | {term: found[term] * norms[term] for term in asked}
    return [
        LossShare(phase.name, term, found.get(term, weights.get(term, 1.0)), shares[term] / total if total else 0.0)
        for term in norms
    ]


def write_shares(path: Path, rows: Sequence[LossShare]) -> None:
    """Write rows to a CSV file, in place of those of the same phases."""
    names, phases = [f.name for f in fields(LossShare)], {row.phase for row in rows}
    kept: list[list[str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [line for line in list(csv.reader(file))[1:] if line and line[0] not in phases]
    lines = [names, *kept, *([str(value) for value in astuple(row)] for row in rows)]
    write_text(path, "".join(f"{','.join(line)}\n" for line in lines))
