"""Small helpers for tests that use the golden files (numpy only)."""

import json
from pathlib import Path

import numpy as np
from fill import sample

HERE = Path(__file__).resolve().parent


def load(name):
    return json.loads((HERE / "mmdet" / f"{name}.json").read_text())


def check_checkpoint(ref, array, tol=1e-4):
    """`ref`: one entry of golden["checkpoints"]; `array`: numpy, same shape.
    Returns the largest deviation in units of the reference's std."""
    array = np.asarray(array)
    assert list(array.shape) == ref["shape"], (array.shape, ref["shape"])
    std = ref["std"] or 1.0
    want = np.array(ref["values"], dtype=np.float64)
    got = array.reshape(-1) if ref.get("all") else sample(array)
    dev = np.abs(got.astype(np.float64) - want).max() / std
    tol = max(tol, 5 * ref.get("noise", 0.0))
    assert dev <= tol, f"sampled values deviate by {dev:.3g} std (tol {tol:.3g})"
    a64 = array.astype(np.float64)
    assert abs(a64.mean() - ref["mean"]) <= tol * std
    assert abs(a64.std() - ref["std"]) <= tol * std
    return dev


def match_detections(ref, boxes, scores, labels, box_tol=0.02, score_tol=2e-4):
    """Order-insensitive: how many reference detections have a partner with the
    same label, all coordinates within box_tol pixels, score within score_tol."""
    boxes, scores = np.asarray(boxes), np.asarray(scores)
    labels = np.asarray(labels)
    free = np.ones(len(labels), dtype=bool)
    hit = 0
    for b, s, c in zip(ref["boxes"], ref["scores"], ref["labels"]):
        ok = free & (labels == c) & (np.abs(scores - s) <= score_tol)
        ok &= (np.abs(boxes - np.array(b)) <= box_tol).all(1)
        if ok.any():
            free[np.flatnonzero(ok)[0]] = False
            hit += 1
    return hit, len(ref["labels"])


def check_train(ref, losses, grads=None, tol=1e-4):
    """`ref`: golden["train"]; losses: {upstream name: float or list of floats};
    grads: {upstream parameter name: (l2 norm, sum)} (any subset)."""
    for k, v in losses.items():
        np.testing.assert_allclose(
            np.ravel(v), np.ravel(ref["losses"][k]), rtol=max(tol, 10 * ref["noise"]["loss"]), atol=1e-6, err_msg=k
        )
    for k, (norm, _) in (grads or {}).items():
        want, _, noise = ref["grads"][k]
        rtol = max(2e-3, 10 * noise)
        assert abs(norm - want) <= rtol * want + 1e-6 * ref["grad_norm"], (k, norm, want)
