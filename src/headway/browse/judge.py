"""What the runs say of each picture: its label mistakes, what it costs each run, and how far the runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .runs import Joined, Run
from .suspects import Opinion, Suspect, cost_of, disagreement, find_suspects


@dataclass(frozen=True, slots=True)
class Judged:
    """One picture. costs: by the number of each run that looked at it, see `cost_of`. disagreement: None where fewer
    than two runs looked."""

    suspects: list[Suspect] = field(default_factory=list)
    costs: dict[int, float] = field(default_factory=dict)
    disagreement: float | None = None


def judge(joined: Joined, runs: Sequence[Run], agree: int, sure: float | None = None) -> list[Judged]:
    """Every picture. agree: how many runs must say the same. sure: the score from which one run is enough where `agree`
    is 1; None: of each run its own."""
    found = []
    for i, (record, split) in enumerate(zip(joined.data.records, joined.split.tolist())):
        looked = {r: run for r, run in enumerate(runs) if split in run.covered}
        opinions = {
            r: Opinion(run.every[i], run.kept[i], run.sure if sure is None else sure) for r, run in looked.items()
        }
        found.append(
            Judged(
                find_suspects(record, opinions, agree),
                {r: cost_of(run.kept[i]) for r, run in looked.items()},
                disagreement([run.kept[i] for run in looked.values()]) if len(looked) > 1 else None,
            )
        )
    return found
