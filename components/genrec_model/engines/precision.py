"""The exported graph in a lower precision.

Since TensorRT 11 networks are strongly typed: precision is in the graph, not a builder's flag. So
the graph is cast (fp16) or gets Q/DQ nodes (int8, fp8) here, by NVIDIA's Model Optimizer. The same
graph runs in ONNX Runtime, which tells what the precision costs before any GPU is there.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from genrec_model.engines.base import Precision
from genrec_model.features.rows import Ints
from genrec_model.files import replacing

#: Layers that stay in the higher precision: the task heads lose most by quantization.
KEEP = [".*task.*"]


def write_precision(
    plain: Path, target: Path, precision: Precision, calibration: Mapping[str, Ints]
) -> None:
    """Write `plain` in another precision to `target`.

    Args:
        plain: fp32 graph of standard operators.
        target: file to write.
        precision: what to write; ``fp32`` copies.
        calibration: inputs of the graph, from real histories.
    """
    with replacing(target) as temporary, _quiet():
        if precision == "fp32":
            shutil.copyfile(plain, temporary)
        elif precision == "fp16":
            _cast(plain, temporary)
        else:
            _quantize(plain, temporary, precision, calibration)


def _cast(plain: Path, target: Path) -> None:
    import modelopt.onnx.autocast as autocast
    import onnx

    model = autocast.convert_to_mixed_precision(
        onnx_path=str(plain),
        low_precision_type="fp16",
        keep_io_types=True,
        # Time differences reach billions of seconds; their logarithm is taken in fp32.
        op_types_to_exclude=["Log", "Clip", "Range"],
    )
    onnx.save(model, target)


def _quantize(
    plain: Path, target: Path, precision: Precision, calibration: Mapping[str, Ints]
) -> None:
    import modelopt.onnx.quantization as quantization

    # The tool names its by-products after its output: give it a suffix that it knows.
    named = target.with_suffix(".onnx")
    quantization.quantize(
        str(plain),
        quantize_mode=precision,
        calibration_data=dict(calibration),
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp16",
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=KEEP,
        output_path=str(named),
    )
    named.replace(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tool logs each step as a warning, and the lack of a GPU as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
