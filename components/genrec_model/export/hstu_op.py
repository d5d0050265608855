"""HSTU attention as one ONNX operator, ``genrec::HSTUAttention``, with a body of standard ones.

A runtime that has a kernel for the operator (a TensorRT plugin, say) uses it; any other runtime
runs the function's body, which travels in the model file. So there is one file for all.

Never call the operator ``Attention``: TensorRT's parser would take its own importer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genrec_kernels.reference import padded_hstu_attention
from genrec_kernels.relative_bias import LOG_BUCKET_WIDTH, RelativeBias

if TYPE_CHECKING:
    import onnx

DOMAIN = "genrec"
NAME = "HSTUAttention"
_BUCKETS_PER_NAT = 1.0 / LOG_BUCKET_WIDTH


@torch.library.custom_op("genrec::padded_hstu_attention", mutates_args=())
def hstu_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    position_bias: Tensor,
    time_bias: Tensor,
    boundaries: Tensor,
    alpha: float,
    norm_length: float,
) -> Tensor:
    """`padded_hstu_attention` as an operator that the exporter keeps in one piece."""
    bias = RelativeBias(position_bias, time_bias, boundaries)
    out = padded_hstu_attention(
        q, k, v, key_limits, timestamps, bias, alpha=alpha, norm_length=norm_length
    )
    return out.contiguous()


@hstu_attention_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: object) -> Tensor:  # noqa: ARG001
    return torch.empty_like(v)


def onnx_function() -> Any:
    """The operator's body as an onnxscript function.

    Shapes as in `padded_hstu_attention`: B sequences, T rows, H heads, D width.
    """
    from onnxscript import opset20 as op
    from onnxscript import script
    from onnxscript.values import Opset

    opset = Opset(DOMAIN, 1)

    @script(opset, default_opset=op)  # type: ignore[untyped-decorator]
    def HSTUAttention(  # type: ignore[no-untyped-def]  # noqa: N802
        q,
        k,
        v,
        key_limits,
        timestamps,
        position_bias,
        time_bias,
        boundaries,
        alpha: float,
        norm_length: float,
    ):
        zero = op.Constant(value_int=0)
        one = op.Constant(value_int=1)
        axis_0 = op.Constant(value_ints=[0])
        axis_1 = op.Constant(value_ints=[1])
        axis_2 = op.Constant(value_ints=[2])

        queries = op.Transpose(q, perm=[0, 2, 1, 3])
        keys = op.Transpose(k, perm=[0, 2, 3, 1])
        values = op.Transpose(v, perm=[0, 2, 1, 3])
        scale = op.CastLike(op.Constant(value_float=alpha), q)
        scores = op.Mul(op.MatMul(queries, keys), scale)

        row = op.Range(zero, op.Squeeze(op.Shape(q, start=1, end=2), axis_0), one)
        key = op.Unsqueeze(op.Unsqueeze(row, axis_0), axis_0)
        limit = op.Unsqueeze(key_limits, axis_2)
        last_distance = op.Sub(op.Squeeze(op.Shape(position_bias), axis_0), one)
        distance = op.Min(op.Max(op.Sub(limit, key), zero), last_distance)

        seconds = op.Abs(op.Sub(op.Unsqueeze(timestamps, axis_2), op.Unsqueeze(timestamps, axis_1)))
        nats = op.Log(op.Cast(op.Max(seconds, one), to=1))
        guess = op.Cast(op.Mul(nats, op.Constant(value_float=_BUCKETS_PER_NAT)), to=7)
        last_bucket = op.Sub(op.Squeeze(op.Shape(time_bias), axis_0), one)
        guess = op.Min(op.Max(guess, zero), last_bucket)
        # The logarithm may be off by one bucket; whole seconds decide.
        above = op.GreaterOrEqual(seconds, op.Gather(boundaries, op.Add(guess, one)))
        bucket = op.Add(guess, op.Cast(above, to=7))
        below = op.Less(seconds, op.Gather(boundaries, bucket))
        bucket = op.Sub(bucket, op.Cast(below, to=7))

        bias = op.Add(op.Gather(position_bias, distance), op.Gather(time_bias, bucket))
        scores = op.Add(scores, op.Unsqueeze(bias, axis_1))
        length = op.CastLike(op.Constant(value_float=norm_length), q)
        weights = op.Div(op.Mul(scores, op.Sigmoid(scores)), length)
        own = op.Equal(key, op.Unsqueeze(op.Unsqueeze(row, axis_0), axis_2))
        visible = op.Unsqueeze(op.Or(op.Less(key, limit), own), axis_1)
        weights = op.Where(visible, weights, op.CastLike(op.Constant(value_float=0.0), q))
        return op.Transpose(op.MatMul(weights, values), perm=[0, 2, 1, 3])

    return HSTUAttention


def translation_table() -> dict[Any, Any]:
    """How the exporter writes the operator: pass it as `custom_translation_table`."""
    _register_schema()
    from onnxscript.values import Opset

    opset = Opset(DOMAIN, 1)

    def translate(  # type: ignore[no-untyped-def]
        q,
        k,
        v,
        key_limits,
        timestamps,
        position_bias,
        time_bias,
        boundaries,
        alpha: float,
        norm_length: float,
    ):
        tables = (position_bias, time_bias, boundaries)
        return opset.HSTUAttention(
            q, k, v, key_limits, timestamps, *tables, alpha=alpha, norm_length=norm_length
        )

    return {torch.ops.genrec.padded_hstu_attention.default: translate}


def add_function(model: onnx.ModelProto) -> None:
    """Put the operator's body into an exported model, for runtimes without a kernel for it."""
    from onnx import helper

    model.functions.append(onnx_function().to_function_proto())
    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _register_schema() -> None:
    """Tell ONNX the operator's signature; the exporter checks nodes against it."""
    from onnx import defs

    if defs.has(NAME, DOMAIN):
        return
    schema = defs.OpSchema
    floats = ("q", "k", "v", "position_bias", "time_bias")
    integers = ("key_limits", "timestamps", "boundaries")
    order = ("q", "k", "v", "key_limits", "timestamps", "position_bias", "time_bias", "boundaries")
    kinds = {**dict.fromkeys(floats, "T"), **dict.fromkeys(integers, "tensor(int64)")}
    defs.register_schema(
        schema(
            NAME,
            DOMAIN,
            1,
            doc="HSTU attention (arXiv 2402.17152) over padded rows.",
            inputs=[schema.FormalParameter(name, kinds[name]) for name in order],
            outputs=[schema.FormalParameter("out", "T")],
            type_constraints=[
                ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "activations")
            ],
            attributes=[
                schema.Attribute("alpha", schema.AttrType.FLOAT, "scale of q·k", required=True),
                schema.Attribute("norm_length", schema.AttrType.FLOAT, "N", required=True),
            ],
        )
    )
