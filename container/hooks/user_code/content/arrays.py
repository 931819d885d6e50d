"""Bodies as numpy arrays and sparse matrices, without pickles. numpy is imported by the first body that needs it."""

from __future__ import annotations

import io
import json
from typing import Any


def array_from_json(text: str | bytes) -> Any:
    """A JSON array or scalar as an array, as sagemaker-inference reads it; an object stays a dict.

    sagemaker-inference makes an array without dimensions of an object, which no function can use as it is.
    """
    value = json.loads(text)
    if isinstance(value, dict):
        return value
    import numpy

    return numpy.array(value)


def array_from_csv(text: str) -> Any:
    """Rows of fields, by numpy's guess of each column's type, as sagemaker-inference reads them."""
    import numpy

    return numpy.genfromtxt(io.StringIO(text), dtype=None, delimiter=",")


def array_from_npy(body: bytes) -> Any:
    """A `.npy` file. ValueError if it holds Python objects: sagemaker-inference would unpickle, thus run, them."""
    import numpy

    return numpy.load(io.BytesIO(body), allow_pickle=False)


def matrix_from_npz(body: bytes) -> Any:
    """A sparse matrix of scipy, whose own reader allows no pickles."""
    import scipy.sparse

    return scipy.sparse.load_npz(io.BytesIO(body))
