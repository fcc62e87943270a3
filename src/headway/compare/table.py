"""From finished runs to a table: mean and spread over seeds, and the difference to the first row seed by seed."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from ..evaluate import page

METRICS = ("AP", "AP50", "AP75")
_CONFIDENCE = 0.95


class Difference(NamedTuple):
    """To the first row, over the seeds that both have. mean; low, high: of the interval that holds the true mean with a
    probability of 95% (Student's t of paired differences; None for one seed)."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def paired(values: Mapping[int, float], first: Mapping[int, float]) -> Difference | None:
    """values, first: a metric by seed. None where no seed is in both."""
    common = [values[seed] - first[seed] for seed in sorted(values) if seed in first]
    common = [value for value in common if math.isfinite(value)]
    if not common:
        return None
    centre = mean(common)
    if len(common) == 1:
        return Difference(centre, None, None, 1)
    from scipy.stats import t

    reach = t.ppf((1 + _CONFIDENCE) / 2, len(common) - 1) * stdev(common) / math.sqrt(len(common))
    return Difference(centre, centre - reach, centre + reach, len(common))


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """rows: label, model, arguments, parameters, macs, and `runs`, results by seed -> rows of the table."""
    summary = []
    for row in rows:
        runs: Mapping[int, Mapping[str, Any]] = row["runs"]
        line = {key: row.get(key) for key in ("label", "model", "arguments", "parameters", "macs")}
        line |= {"seeds": sorted(runs), "of": row["of"]}
        for name in ("images_per_s", "inference_ms"):
            line[name] = _mean([run[name] for run in runs.values() if run.get(name) is not None])
        for name in METRICS:
            values = {seed: run["metrics"][name] for seed, run in runs.items()}
            first = {seed: run["metrics"][name] for seed, run in rows[0]["runs"].items()}
            difference = None if row is rows[0] else paired(values, first)
            line[name] = {
                "mean": _mean(list(values.values())),
                "spread": stdev(values.values()) if len(values) > 1 else None,
                "by_seed": values,
                "difference": None if difference is None else difference._asdict(),
            }
        summary.append(line)
    return summary


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None


HEADER = (
    "model", "parameters", "GMAC", "training images/s", "inference ms", "AP", "AP50", "AP75", "AP to the first row",
)  # fmt: skip


def cells(line: Mapping[str, Any]) -> list[str]:
    """One row of the table as texts, in the order of `HEADER`."""
    missing = "" if len(line["seeds"]) == line["of"] else f" ({len(line['seeds'])} of {line['of']} seeds)"
    return [
        line["label"] + missing,
        "" if line["parameters"] is None else f"{line['parameters'] / 1e6:.2f} M",
        "" if line["macs"] is None else f"{line['macs'] / 1e9:.2f}",
        "" if line["images_per_s"] is None else f"{line['images_per_s']:.1f}",
        "" if line["inference_ms"] is None else f"{line['inference_ms']:.0f}",
        *(_with_spread(line[name]) for name in METRICS),
        _difference(line["AP"]["difference"]),
    ]


def _with_spread(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return ""
    return f"{value['mean']:.3f}" + ("" if value["spread"] is None else f" ± {value['spread']:.3f}")


def _difference(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    if value["low"] is None:
        return f"{value['mean']:+.3f} (one seed)"
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def caption(budget: Mapping[str, Any]) -> str:
    """What holds for all rows, in words."""
    epochs, size = budget["epochs"], budget.get("input_size")
    scaled = "of each model" if size is None else "x".join(map(str, size))
    return (
        f"{epochs} epoch{'' if epochs == 1 else 's'} of {budget['data']}, recipe {budget['recipe']}, batch "
        f"{budget['batch_size']}, input {scaled}, precision {budget['precision']}. "
        "AP on the validation split, ± one standard deviation over the seeds; in brackets the 95% interval of the "
        "paired difference."
    )


def markdown(lines: Sequence[Mapping[str, Any]], budget: Mapping[str, Any]) -> str:
    rows = [HEADER, ["---"] * len(HEADER), *(cells(line) for line in lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# Comparison\n\n{caption(budget)}\n\n{table}\n\n![AP by model](comparison.png)\n"


def html(lines: Sequence[Mapping[str, Any]], budget: Mapping[str, Any], picture: str) -> str:
    """One file without external requests. picture: a PNG in base64."""
    figure = page.Html(f'<figure><img alt="AP by model" src="data:image/png;base64,{picture}"></figure>')
    content = page.section("Comparison", caption(budget), page.table(HEADER, map(cells, lines)), figure)
    return page.document("Comparison", content)
