"""A model's sizes, read from its files or, where these are out of reach, assumed from its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from sagemaker_deploy.errors import DeployError, SpecError
from sagemaker_deploy.sizing.model_shape import ModelShape
from sagemaker_deploy.sizing.model_source import GgufInS3, HubUnreachable, ModelFiles
from sagemaker_deploy.sizing.name_shape import shape_from_name


@dataclass(frozen=True)
class Sizes:
    """`shape` is None if nothing is known. `read_from` names the files that were read, else `not_read` says why not.

    `assumed` says what the name told and what was assumed. `problem` is why the container would refuse the model.
    """

    shape: ModelShape | None = None
    read_from: str = ""
    not_read: str = ""
    assumed: str = ""
    problem: str = ""


def read_or_assume(read: Callable[[], ModelFiles], name: str) -> Sizes:
    """Return the sizes that `read` finds, else those that `name` tells."""
    try:
        files = read()
    except (HubUnreachable, GgufInS3, SpecError, ClientError, BotoCoreError) as exc:
        return assume(name, str(exc))
    except DeployError as exc:
        remedy = f"; {exc.remedy}" if exc.remedy else ""
        return dataclasses.replace(assume(name, str(exc)), problem=f"the model cannot be served: {exc}{remedy}")
    return Sizes(files.shape, files.read_from, problem=files.problem())


def assume(name: str, not_read: str) -> Sizes:
    """Return the sizes that `name` tells, with the reason why the files were not read."""
    told = shape_from_name(name)
    return Sizes(told.shape, "", not_read, told.text) if told else Sizes(not_read=not_read)
