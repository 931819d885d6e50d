"""Access for OpenAI clients: SageMaker's base URL, and a bearer token signed with AWS credentials.

The token is a presigned URL, made without a call. Nothing is stored, so a token cannot be revoked except by revoking
the credentials. The caller needs `sagemaker:CallWithBearerToken` on `*` and `sagemaker:InvokeEndpoint` on the endpoint.
"""

from __future__ import annotations

import base64
from typing import Any

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from sagemaker_deploy.errors import SpecError

MAX_LIFETIME_S = 12 * 3600
_PREFIX = "sagemaker-api-key-"


def openai_base_url(region: str, endpoint_name: str, component: str = "") -> str:
    """Return `base_url` for an OpenAI client. The host differs by one dot from that of the ordinary runtime API."""
    suffix = ".com.cn" if region.startswith("cn-") else ".com"
    path = f"{endpoint_name}/inference-components/{component}" if component else endpoint_name
    return f"https://runtime.sagemaker.{region}.amazonaws{suffix}/endpoints/{path}/openai/v1"


def bearer_token(session: Any, region: str, lifetime_s: int = 3600) -> str:
    """Return a token for `api_key`, valid for `lifetime_s` seconds or until the credentials expire.

    Raises `SpecError` for more than 12 hours or without credentials.
    """
    if not 1 <= lifetime_s <= MAX_LIFETIME_S:
        raise SpecError(f"the lifetime of a token must be 1 to {MAX_LIFETIME_S} s, got {lifetime_s}")
    credentials = session.get_credentials()
    if credentials is None:
        raise SpecError("no AWS credentials to sign the token with")
    url = "https://sagemaker.amazonaws.com/"
    request = AWSRequest("POST", url, headers={"host": "sagemaker.amazonaws.com"})
    request.params = {"Action": "CallWithBearerToken"}
    SigV4QueryAuth(credentials.get_frozen_credentials(), "sagemaker", region, expires=lifetime_s).add_auth(request)
    signed = request.url.removeprefix("https://") + "&Version=1"
    return _PREFIX + base64.b64encode(signed.encode()).decode()
