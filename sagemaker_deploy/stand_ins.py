"""Values in the place of what a plan still lacks, so that requests can be built and checked without them.

They are valid, can never be used by accident, and leave every text that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_ACCOUNT = "000000000000"
STAND_INS = {
    "--region": "missing-region-0",
    "--image": f"{_ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/missing:missing",
    "--role": f"arn:aws:iam::{_ACCOUNT}:role/missing",
    "--instance-type": "ml.p2.xlarge",  # any GPU type that is not in the table: no check of its size applies
    "--upload-to": "s3://missing/",
}
WHY_NEEDED = {
    "--region": "or AWS_REGION, or a profile with a region",
    "--image": "URI in ECR; `sagemaker-deploy image URI` prints how to build it",
    "--role": "ARN; `sagemaker-deploy role NAME --image URI` creates one",
    "--instance-type": "no type can be recommended: INSTANCE says why",
    "--upload-to": "s3://bucket/prefix/ for the files of a local model, or of --code",
}
# The end of a derived name: a hash of the content, unknown while a part of the content is.
_HASH = re.compile(r"-[0-9a-f]{8}$")
_HASHED = ("ModelName", "EndpointConfigName")


def with_gaps(body: Any, missing: Iterable[str]) -> Any:
    """Return a request's body with `<--option>` in place of each stand-in, and `<hash>` at the end of hashed names."""
    options = tuple(missing)
    shown = {STAND_INS[option]: f"<{option}>" for option in options}
    return _replaced(body, shown) if options else body


def _replaced(value: Any, shown: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _HASH.sub("-<hash>", inner) if key in _HASHED else _replaced(inner, shown)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_replaced(item, shown) for item in value]
    return shown.get(value, value) if isinstance(value, str) else value
