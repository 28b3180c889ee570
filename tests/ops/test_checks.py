"""Every operator against its reference, by the comparison that `doctor` makes on the device of a user."""

import pytest
import torch

from hagan3d import ops
from hagan3d.ops import checks

OPERATORS = {operator.name: operator for operator in checks.operators()}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", checks.DTYPES)
@pytest.mark.parametrize("layout", checks.LAYOUTS)
def test_an_operator_is_its_reference(device, name, dtype, layout):
    for shape in OPERATORS[name].sizes:
        assert checks.difference(OPERATORS[name], shape, dtype, device, layout) == ""


@pytest.mark.parametrize("part", ["value", "gradient"])
def test_one_wrong_element_is_found(device, part):
    def wrong(x, weight, bias):
        y = ops.rms_norm(x, weight, bias)
        if part == "value":
            return torch.cat([y[..., :-1], 1.01 * y[..., -1:]], 4)
        return y + 0.01 * (weight[0] - weight[0].detach())

    operator = checks.Operator("wrong", wrong, ops.rms_norm_reference, OPERATORS["rms_norm none"].shapes)
    assert part in checks.difference(operator, checks.SHAPES[0], torch.float32, device)


def test_a_wrong_second_derivative_is_found(device):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx, grad):
            return 2 * ctx.saved_tensors[0].detach() * grad  # as if it did not depend on x

    operator = checks.Operator("square", Once.apply, torch.square, lambda shape: [shape])
    assert "second derivative" in checks.difference(operator, checks.SHAPES[0], torch.float32, device)
