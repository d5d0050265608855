"""Export of an artifact's model to ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from genrec_model.export.hstu_op import add_function, translation_table
from genrec_model.export.padded import INPUTS, OUTPUTS, PaddedHSTU
from genrec_model.files import replacing
from genrec_model.hstu import HSTU

OPSET = 20
#: Largest sizes that the graph promises to take.
MAX_BATCH, MAX_CANDIDATES = 4096, 4096


def export_onnx(model: HSTU, path: Path, *, plain: bool = False) -> None:
    """Write the model as ONNX with dynamic batch, history length and number of candidates.

    Args:
        model: the model, in evaluation mode.
        path: the file to write.
        plain: trace attention into standard operators, for runtimes without model functions.
    """
    import onnx

    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    length = torch.export.Dim("length", min=2, max=model.config.max_rows)
    candidates = torch.export.Dim("candidates", min=1, max=MAX_CANDIDATES)
    history = {0: batch, 1: length}
    # Sizes of the example that differ from each other and from 0 and 1, which would be baked in.
    # Each input is a tensor of its own: the exporter would merge two that are the same object.
    example = (
        torch.full((3, 7), 3),
        torch.full((3, 7), 2),
        torch.arange(7).repeat(3, 1),
        torch.tensor([7, 5, 2]),
        torch.full((3, 4), 3),
        torch.full((3,), 9),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            PaddedHSTU(model, custom_op=not plain).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes={
                "items": history,
                "actions": history,
                "timestamps": history,
                "lengths": {0: batch},
                "candidates": {0: batch, 1: candidates},
                "now": {0: batch},
            },
            input_names=INPUTS,
            output_names=OUTPUTS,
            custom_translation_table=None if plain else translation_table(),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    proto = program.model_proto
    if not plain:
        add_function(proto)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(path) as temporary:
        onnx.save(proto, temporary)
