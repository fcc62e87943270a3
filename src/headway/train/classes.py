"""A trained detector for other classes: only what predicts classes starts anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..detector import Detector
from ..registry import create_model


def with_classes(model: Detector, class_names: Sequence[str]) -> tuple[Detector, list[str]]:
    """A detector like `model` for other classes, with its weights wherever they do not depend on the classes.

    Returns it and the names of the parameters that start anew. Which ones depend on the classes is seen by building the
    network twice without memory, for n and for n + 1 classes.
    """
    card = model.card
    arguments = {k: v for k, v in card.arguments.items() if k not in ("num_classes", "backbone_weights")}
    count = len(class_names)
    with torch.device("meta"):
        shapes = [
            {k: v.shape for k, v in create_model(card.model, num_classes=n, **arguments).state_dict().items()}
            for n in (count, count + 1)
        ]
    rebuilt = [k for k in shapes[0] if shapes[0][k] != shapes[1][k]]
    fresh = create_model(card.model, class_names=class_names, **arguments)
    kept = {k: v for k, v in model.state_dict().items() if k not in rebuilt}
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    fresh.set_card(
        replace(card, arguments=fresh.card.arguments, class_names=fresh.card.class_names, category_ids=(), metrics={})
    )
    return fresh, rebuilt
