"""Implicit knowledge (YOLOR, arXiv 2105.04206): learned values that no picture changes, combined with a feature map or
with a prediction by addition, multiplication or concatenation, and folded into the convolution between for inference.

Source: the paper, sections 3 and 5.6; no code of the original was read.
Legend: B images, C channels, P length of the prior, h w the map.
"""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operator = Literal["add", "mul", "concat"]
Refinement = Literal["add", "mul"]
ImplicitModel = Literal["vector", "network", "factors"]
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Implicit(nn.Module):
    """One learned value per channel, the same for every picture and place.

    channels: C of the map it is combined with.
    operator: "add" and "mul" keep the channels, "concat" puts the C implicit ones in front: [B, 2C, h, w].
    model: "vector", the values themselves; "network", a linear layer on a learned prior [1, P]; "factors", a linear
        combination (with one bias) of P learned vectors [C, P]. All three are constants after training.
    prior: P; None is 2 C (the paper's 5.6). std: of the normal distribution that `value` or `prior` is drawn from.

    Starts near 0, for "mul" near 1. Optimisers leave its parameters out of the weight decay.
    Differs: the paper starts the prior of a "mul" near 1; here the linear layer's bias does, since a random layer on a
    prior near 1 would not start near 1.
    """

    def __init__(
        self,
        channels: int,
        operator: Operator = "add",
        model: ImplicitModel = "vector",
        *,
        prior: int | None = None,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        if operator not in ("add", "mul", "concat"):
            raise ValueError(f"operator must be 'add', 'mul' or 'concat', got {operator!r}")
        if model not in ("vector", "network", "factors"):
            raise ValueError(f"model must be 'vector', 'network' or 'factors', got {model!r}")
        if model == "vector" and prior is not None:
            raise ValueError(f"model 'vector' has no prior, got prior={prior}; use 'network' or 'factors'")
        self.channels, self.operator, self.model = channels, operator, model
        start = 1.0 if operator == "mul" else 0.0
        if model == "vector":
            self.value = nn.Parameter(torch.empty(1, channels, 1, 1).normal_(start, std))
            return
        prior = 2 * channels if prior is None else prior
        self.prior = nn.Parameter(torch.empty(1 if model == "network" else channels, prior).normal_(0.0, std))
        self.linear = nn.Linear(prior, channels if model == "network" else 1)
        nn.init.constant_(self.linear.bias, start)

    def vector(self) -> Tensor:
        """[1, C, 1, 1], what the model evaluates to."""
        if self.model == "vector":
            return self.value
        value: Tensor = self.linear(self.prior)
        return value.view(1, self.channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] or [B, C] -> the same shape, with "concat" twice the channels, the implicit ones first."""
        value = self.vector() if x.dim() == 4 else self.vector().flatten(1)
        if self.operator == "add":
            return x + value
        if self.operator == "mul":
            return x * value
        return torch.cat([value.expand_as(x).to(x.dtype), x], 1)

    def extra_repr(self) -> str:
        return f"{self.channels}, operator={self.operator!r}, model={self.model!r}"


class ImplicitConv2d(nn.Module):
    """refine(conv(align(x))): feature alignment before a prediction's convolution, prediction refinement after it
    (arXiv 2105.04206, 5.1 and 5.2), either of them or both.

    conv: [B, C, h, w] -> [B, N, h, w]; with a "concat" alignment it takes 2C channels. Zero padding, any kernel. Where
        there is an alignment its padding is done here, and `conv` itself is left with none.
    align: of C channels, any operator. refine: of N channels, "add" or "mul".

    A larger kernel pads before the alignment, so that the implicit values reach into the padding: only so is
    `folded` exact at the borders.

    Raises: ValueError where the channels do not fit, for a "concat" refinement and for padding other than zeros.
    """

    def __init__(self, conv: nn.Conv2d, align: Implicit | None = None, refine: Implicit | None = None) -> None:
        super().__init__()
        _check(conv.in_channels, conv.out_channels, align, refine)
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(
                "the convolution must pad with a number of zeros, got "
                f"padding={conv.padding!r}, padding_mode={conv.padding_mode!r}"
            )
        if conv.groups != 1 and align is not None and align.operator == "concat":
            raise ValueError(f"a 'concat' alignment needs a convolution with groups=1, got {conv.groups}")
        self.conv, self.align, self.refine = conv, align, refine
        self.padding = conv.padding
        if align is not None:
            conv.padding = (0, 0)

    @property
    def out_channels(self) -> int:
        return self.conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        if self.align is not None:
            if any(self.padding):
                rows, columns = self.padding
                x = F.pad(x, (columns, columns, rows, rows))
            x = self.align(x)
        y = self.conv(x)
        return y if self.refine is None else self.refine(y)

    @torch.no_grad()
    def folded(self) -> nn.Conv2d:
        """One convolution with a bias and nothing implicit, equal to this module up to float rounding."""
        conv = self.conv
        weight, bias = _folded(conv.weight, conv.bias, self.align, self.refine, conv.groups)
        with torch.device("meta"):  # no random numbers are drawn
            folded = nn.Conv2d(
                weight.shape[1] * conv.groups, conv.out_channels, conv.kernel_size, conv.stride, self.padding,
                conv.dilation, conv.groups,
            )  # fmt: skip
        return _filled(folded, weight, bias)


class ImplicitLinear(nn.Module):
    """`ImplicitConv2d` for a linear layer: [..., C] -> [..., N]."""

    def __init__(self, linear: nn.Linear, align: Implicit | None = None, refine: Implicit | None = None) -> None:
        super().__init__()
        _check(linear.in_features, linear.out_features, align, refine)
        self.linear, self.align, self.refine = linear, align, refine

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        y = self.linear(rows if self.align is None else self.align(rows))
        y = y if self.refine is None else self.refine(y)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """One linear layer with a bias and nothing implicit, equal to this module up to float rounding."""
        weight, bias = _folded(self.linear.weight[:, :, None, None], self.linear.bias, self.align, self.refine)
        with torch.device("meta"):
            folded = nn.Linear(weight.shape[1], len(weight))
        return _filled(folded, weight.flatten(1), bias)


def _folded(
    weight: Tensor, bias: Tensor | None, align: Implicit | None, refine: Implicit | None, groups: int = 1
) -> tuple[Tensor, Tensor]:
    """weight [N, C / groups, k, k] and bias [N] of a convolution that includes the implicit values around it.

    W' = diag(m) W diag(k), b' = m (b + W a) + r for the alignment k x + a and the refinement m y + r (the paper's
    equations 9 and 10); of a concatenation a is what W's first C columns meet.
    """
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    if align is not None:
        value = align.vector().to(weight.dtype)
        if align.operator == "mul":
            each = value.view(groups, 1, -1, 1, 1).expand(-1, len(weight) // groups, -1, -1, -1)
            weight = weight * each.flatten(0, 1)
        else:
            meets = weight
            if align.operator == "concat":
                meets, weight = weight[:, : align.channels], weight[:, align.channels :]
            bias = bias + F.conv2d(value.expand(-1, -1, *weight.shape[2:]), meets, groups=groups).flatten()
    if refine is None:
        return weight, bias
    value = refine.vector().flatten().to(weight.dtype)
    return (weight, bias + value) if refine.operator == "add" else (weight * value.view(-1, 1, 1, 1), bias * value)


def _filled(layer: Layer, weight: Tensor, bias: Tensor) -> Layer:
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer


def _check(inputs: int, outputs: int, align: Implicit | None, refine: Implicit | None) -> None:
    if align is not None:
        given = 2 * align.channels if align.operator == "concat" else align.channels
        if given != inputs:
            raise ValueError(
                f"the alignment ({align.operator}) gives {given} channels, and the layer behind it takes {inputs}"
            )
    if refine is not None and refine.operator == "concat":
        raise ValueError("a refinement must be 'add' or 'mul': 'concat' would double the predictions")
    if refine is not None and refine.channels != outputs:
        raise ValueError(f"the refinement has {refine.channels} channels, and the layer before it gives {outputs}")
