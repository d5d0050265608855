"""From a V2 tensor, as JSON lists or raw bytes, to an array of the right type and shape."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from kserve import InferInput

from genrec_model.errors import RequestError

Array = npt.NDArray[Any]


def wrong(field: str, message: str) -> RequestError:
    """An error of a tensor."""
    return RequestError(message, field=field, status=400)


def decode(tensor: InferInput, datatypes: Sequence[str], *, dimensions: int) -> Array:
    """A tensor's array: int64, or objects that are str.

    KServe's own conversion takes 1.5 and true for integers, and fails with errors of its own
    where sizes do not match.

    Args:
        tensor: INT64 or BYTES.
        datatypes: those that are allowed, of these two.
        dimensions: that its shape must have.

    Raises:
        RequestError: with status 400; the field is the tensor.
    """
    name, shape = tensor.name, tensor.shape
    if tensor.datatype not in datatypes:
        raise wrong(name, f"has the datatype {tensor.datatype}; give {' or '.join(datatypes)}")
    if len(shape) != dimensions or any(type(n) is not int or n < 0 for n in shape):
        raise wrong(name, f"has the shape {shape}; give {dimensions} sizes")
    try:
        values = _raw_values(tensor) if tensor._raw_data is not None else _listed_values(tensor)
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise wrong(name, f"cannot be read as {tensor.datatype}: {error}") from error
    if values.size != math.prod(shape):
        raise wrong(name, f"has {values.size} values, its shape {shape} needs {math.prod(shape)}")
    return values.reshape(shape)


def _raw_values(tensor: InferInput) -> Array:
    data: bytes = tensor._raw_data
    if tensor.datatype == "INT64":
        return np.frombuffer(data, "<i8").astype(np.int64)
    values, offset = [], 0
    while offset < len(data):
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if offset + length > len(data):
            raise ValueError("it ends in the middle of a string")
        values.append(data[offset : offset + length].decode())
        offset += length
    return _objects(values)


def _listed_values(tensor: InferInput) -> Array:
    values = _flat(tensor.data if tensor.data is not None else [], depth=len(tensor.shape))
    if tensor.datatype == "INT64":
        others = [value for value in values if type(value) is not int]
        if others:
            raise TypeError(f"{others[0]!r} is no integer")
        return np.array(values, np.int64)
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    others = [text for text in texts if not isinstance(text, str)]
    if others:
        raise TypeError(f"{others[0]!r} is no string")
    return _objects(texts)


def _flat(values: Any, *, depth: int) -> list[Any]:
    """Values of a list that may be nested as deep as the tensor has dimensions."""
    if not isinstance(values, (list, tuple)):
        raise TypeError("data is no list")
    if depth > 1 and any(isinstance(value, (list, tuple)) for value in values):
        return [leaf for value in values for leaf in _flat(value, depth=depth - 1)]
    return list(values)


def _objects(values: Sequence[str]) -> Array:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array
