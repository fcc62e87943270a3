"""From the finished runs of `claims.py` to results/claims.md: differences seed by seed, intervals, verdicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from claims_list import BUDGET, CLAIMS, ROWS, Claim

from headway.compare.table import Difference, paired

SEEDS = 3  # fewer give no verdict
TITLE = "# The papers' claims, measured\n"
ABOUT = """\
{} of {} runs, {} of {} comparisons with {} seeds. Unless a row says otherwise: BCCD (205 photographs to train on, 87 to
measure by), `tf_efficientnet_lite0` with ImageNet weights, 64 channels, {} x {}, {} epochs of batches of {}, recipe {},
{}, a learning rate of {}, and of a Dynamic Head two blocks that begin with their own level. The best of the validations
counts, in all rows alike. Rows of a ResNet-18, Swin or ViT start from random weights, with 12 epochs at 144 x 192;
PAFNet-Lite and sets of objects have 24 epochs; EfficientDet has a rate of 5e-3, and D0 to D2 pictures of 192, 240 and
288 pixels. `claims_list.py` has every row. What had run at 6e-4 before: [claims_at_6e-4.md](claims_at_6e-4.md).
"""
READ = """\
Differences are of one seed each, in brackets the 95% interval of their mean (Student's t). A claim **holds** where the
whole interval is above 0. It **does not hold here** where the whole interval is below the least gain that its paper
reports: on this data, at this budget. All else is **not decided**. An interval is of the training's chance alone,
as the pictures are the same for all seeds, and of {} such intervals some {} miss by chance.
"""
REPEAT = """\
To repeat: `python benchmarks/claims.py run --bccd FOLDER --coco-person FOLDER`; one row: `--rows NAME --seeds 0`. Every
run with its definition and curve: `claims_runs.json`. Machines: {}.
"""


def by_seed(runs: Mapping[str, Any], names: Sequence[str], metric: str) -> dict[int, float]:
    """The mean of the rows `names`, of the seeds for which all of them have this figure."""
    seeds = set.intersection(*({int(key.rpartition("/")[2]) for key, run in runs.items()
                                if key.rpartition("/")[0] == name and metric in run["metrics"]}
                               for name in names))  # fmt: skip
    return {seed: mean(runs[f"{name}/{seed}"]["metrics"][metric] for name in names) for seed in sorted(seeds)}


def verdict(difference: Difference | None, gain: float) -> str:
    """Holds: the whole interval is above 0. Does not hold here: it is below the least gain that the paper reports."""
    if difference is None:
        return "not run"
    if difference.low is None or difference.high is None or difference.seeds < SEEDS:
        return f"not decided ({difference.seeds} of {SEEDS} seeds)"
    if difference.low > 0:
        return "holds" if difference.high >= gain else "holds, a smaller gain"
    if difference.high < gain:
        return "does not hold here" + (", it harms" if difference.high < 0 else "")
    return "not decided"


class Compared(NamedTuple):
    """row, reference: the names to show. rows, references: whose mean is compared, in which figure."""

    row: str
    reference: str
    rows: Sequence[str]
    references: Sequence[str]
    metric: str


def line(runs: Mapping[str, Any], claim: Claim, compared: Compared) -> list[str]:
    row, reference, rows, references, metric = compared
    values, others = by_seed(runs, rows, metric), by_seed(runs, references, metric)
    difference = paired(values, others)
    interval = "" if difference is None else f"{difference.mean:+.3f}"
    if difference is not None and difference.low is not None:
        interval += f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    apart = ", ".join(f"{values[seed] - others[seed]:+.3f}" for seed in sorted(values.keys() & others.keys()))
    shown = row if len(claim.metrics) == 1 else f"{row}, AP at {int(metric[2:]) / 100:.2f}"
    return [
        shown, reference, *(f"{mean(each.values()):.3f}" if each else "" for each in (values, others)), apart, interval,
        verdict(difference, claim.gains.get(row, claim.gain)),
    ]  # fmt: skip


def comparisons(claim: Claim) -> list[Compared]:
    """What `line` compares."""
    pairs = [(row, reference, (row,), (reference,)) for row, reference in claim.pairs]
    effects = [(name, "the same without", rows, references) for name, rows, references in claim.effects]
    return [Compared(*names, metric) for names in pairs + effects for metric in claim.metrics]


def write_table(runs: Mapping[str, Any], path: Path) -> None:
    """runs: of results/claims_runs.json. path: of the table, which is made anew."""
    tables = {claim.number: [line(runs, claim, compared) for compared in comparisons(claim)] for claim in CLAIMS}
    pairs = [row for table in tables.values() for row in table]
    decided = sum(not row[-1].startswith(("not run", "not decided (")) for row in pairs)
    hardware = sorted({run["hardware"] for run in runs.values()})
    height, width = BUDGET["input_size"]
    budget = (BUDGET[name] for name in ("epochs", "batch_size", "recipe", "precision", "learning_rate"))
    text = [TITLE, ABOUT.format(len(runs), 3 * len(used()), decided, len(pairs), SEEDS, height, width, *budget),
            READ.format(len(pairs), round(len(pairs) / 20)), REPEAT.format("; ".join(hardware))]  # fmt: skip
    for claim in sorted(CLAIMS, key=lambda claim: (int(claim.number.rstrip("abc")), claim.number)):
        text += [f"## {claim.number}. {claim.text[0].upper()}{claim.text[1:]}\n", f"The paper: {claim.paper}.\n",
                 "| row | against | AP | AP of that | seed by seed | mean | verdict |", "|---" * 7 + "|",
                 *(f"| {' | '.join(row)} |" for row in tables[claim.number]), ""]  # fmt: skip
    path.write_text("\n".join(text))


def used() -> set[str]:
    """Rows that some claim compares."""
    names = {name for claim in CLAIMS for pair in claim.pairs for name in pair}
    unknown = names - ROWS.keys()
    assert not unknown, unknown
    return names
