"""The lists of benchmarks/comparisons.py: every row names a model that can be built."""

import importlib.util
from pathlib import Path

import pytest

from headway.compare.entries import entries_of
from headway.factory import create_model
from headway.meta import on_meta_device

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "comparisons.py"
spec = importlib.util.spec_from_file_location("comparisons", SCRIPT)
comparisons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(comparisons)


@pytest.mark.parametrize("name", comparisons.LISTS)
def test_every_row_builds(name):
    _, models = comparisons.LISTS[name]
    for entry in entries_of(models):
        with on_meta_device():
            assert create_model(entry.model, num_classes=3, **entry.arguments).card.num_classes == 3
