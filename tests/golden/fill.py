"""Deterministic synthetic weights, inputs and sampling for the golden files.

Self-contained (numpy only; torch only inside `fill_state_dict`).
The rule is a pure function of (tensor name, tensor shape): no ordering, no
global seed.  `name` is always the UPSTREAM state_dict key.

FILL RULE  (version 1)
----------------------
rng  = numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode("utf-8"))))
leaf = last dotted component of `name`

 1. integer entries (num_batches_tracked, index buffers): not filled
    (num_batches_tracked = 0; index buffers are structural)
 2. leaf == "running_var"/"_variance"  raw = rng.uniform(0.5, 1.5, shape)
 3. leaf == "running_mean"/"_mean"     raw = 0.1 * rng.standard_normal(shape)
    ("_variance" and "_mean" are the PaddlePaddle names)
 4. ndim >= 2                          raw = rng.standard_normal(shape)
                                             * sqrt(1 / prod(shape[1:]))
 5. ndim == 1 and leaf == "weight"     raw = rng.uniform(0.5, 1.5, shape)
 6. ndim == 1 (bias and all others)    raw = 0.1 * rng.standard_normal(shape)
 7. ndim == 0                          raw = rng.uniform(0.5, 1.5)

FILL RULE  (version 2: golden["fill"]["version"] == 2, the paddle files)
----------------------
As version 1 but rule 4 (ndim >= 2) becomes, when prod(shape[1:]) > 1,
                raw = rng.standard_normal(shape)
                raw = (raw - raw.mean(over all axes but the first, keepdims))
                      * sqrt(2 / prod(shape[1:]))
(zero-sum filters: without it deep ReLU nets with these running statistics
become almost independent of the input image).

value = float32(gain * raw + shift)    everything before the cast in float64

gain, shift = 1, 0 except for the names listed in a golden file's
"fill"]["adjust"] = {name: [gain, shift]}  (used on a few output layers so that
scores do not saturate and boxes have sane sizes; gains are powers of two).
"""

import math
import zlib

import numpy as np

__all__ = [
    "check_fill",
    "fill_array",
    "fill_state_dict",
    "make_input",
    "sample",
    "sample_index",
]


def fill_array(name, shape, gain=1.0, shift=0.0, version=1):
    """numpy float32 array for upstream tensor `name` of `shape`."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("utf-8"))))
    shape = tuple(int(s) for s in shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("running_var", "_variance"):
        raw = rng.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "_mean"):
        raw = 0.1 * rng.standard_normal(shape)
    elif len(shape) >= 2 and version == 2 and math.prod(shape[1:]) > 1:
        raw = rng.standard_normal(shape)
        raw = raw - raw.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        raw = raw * math.sqrt(2.0 / math.prod(shape[1:]))
    elif len(shape) >= 2:
        raw = rng.standard_normal(shape) * math.sqrt(1.0 / math.prod(shape[1:]))
    elif len(shape) == 1 and leaf == "weight":
        raw = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        raw = 0.1 * rng.standard_normal(shape)
    else:
        raw = rng.uniform(0.5, 1.5)
    return np.asarray(gain * raw + shift, dtype=np.float64).astype(np.float32)


def fill_state_dict(golden):
    """Upstream-named state_dict (torch tensors) for a loaded golden JSON.

    Integer index buffers are left out; num_batches_tracked entries are 0.
    """
    import torch

    adjust = golden["fill"]["adjust"]
    out = {}
    for name, shape in golden["state_dict"].items():
        gain, shift = adjust.get(name, (1.0, 0.0))
        out[name] = torch.from_numpy(np.array(fill_array(name, shape, gain, shift, golden["fill"].get("version", 1))))
    for name, shape in golden["int_buffers"].items():
        if name.endswith("num_batches_tracked"):
            out[name] = torch.zeros(tuple(shape), dtype=torch.int64)
    return out


def make_input(shape=(1, 3, 256, 320), seed=0):
    """The golden network input (already 'normalised'), float32 numpy NCHW."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.standard_normal(tuple(shape)).astype(np.float32)


def sample_index(n, k=64):
    """Flat (row-major) indices that a checkpoint stores: min(k, n) of them."""
    return np.linspace(0, n - 1, min(k, n)).round().astype(np.int64)


def sample(array, k=64):
    a = np.ascontiguousarray(array).reshape(-1)
    return a[sample_index(a.size, k)]


def check_fill(golden):
    """Raise if this numpy produces other random streams than the generator."""
    adjust = golden["fill"]["adjust"]
    for name, ref in golden["fill"]["check"].items():
        gain, shift = adjust.get(name, (1.0, 0.0))
        a = fill_array(name, golden["state_dict"][name], gain, shift, golden["fill"].get("version", 1))
        np.testing.assert_allclose(a.reshape(-1)[:4], ref["first"], rtol=1e-6)
        np.testing.assert_allclose(float(a.astype(np.float64).sum()), ref["sum"], rtol=1e-5, atol=1e-5)
