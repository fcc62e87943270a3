"""Write the parameters and multiply-adds of every published model that `headway models` prints: python
tools/count_models.py. A test compares them with the networks."""

import json
from pathlib import Path

from headway.commands.models import COUNTS
from headway.factory import list_models
from headway.profile import count_named

ASSETS = Path(__file__).parents[1] / "src" / "headway" / "assets"

if __name__ == "__main__":
    counts = {name: count_named(name) for name in list_models()}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in counts.items())
    (ASSETS / COUNTS).write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
