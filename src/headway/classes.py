"""Classes by name or by label."""

import math
from collections.abc import Sequence

from .errors import HeadwayError, check_number, nearest


def labels_of(classes: Sequence[str | int], names: Sequence[str], *, nameless: bool = False) -> list[int]:
    """Labels of classes given by name or label; of labels without a name only if `nameless`.

    Raises: HeadwayError for one that is not known.
    """
    if isinstance(classes, (str, int)):
        raise HeadwayError(f"classes is a list of names or labels, got {classes!r}: write [{classes!r}]")
    for item in classes:
        if isinstance(item, str) and item not in names:
            hint = nearest(item, names) or f"known are {', '.join(names[:20])}"
            raise HeadwayError(f"there is no class {item!r}; {hint}")
        elif not isinstance(item, str):
            check_number("a class's label", item, 0, math.inf if nameless else len(names) - 1, whole=True)
    return [names.index(item) if isinstance(item, str) else int(item) for item in classes]
