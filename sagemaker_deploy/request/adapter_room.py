"""What a container's environment says about adapters on a GPU: whether memory is set aside, and for how many."""

from __future__ import annotations

from collections.abc import Mapping

from sagemaker_deploy.request.container_settings import TRUE, effective, same_setting

# The container's defaults (docs/adapters.md).
_NUM_ADAPTERS, _RANK = "8", "64"
_SWITCHES = ("ENABLE_ADAPTERS", "VLLM_ALLOW_RUNTIME_LORA_UPDATING")


def takes_adapters(environment: Mapping[str, str]) -> bool:
    """Whether a GPU container takes adapters: one of three settings asks for it at the start (decision 0141)."""
    if effective(environment, same_setting("MAX_ADAPTERS")) == "0":
        return False
    switches = (effective(environment, same_setting(name)).lower() in TRUE for name in _SWITCHES)
    return bool(effective(environment, ("LORA_ADAPTERS",))) or any(switches)


def adapter_room(environment: Mapping[str, str]) -> tuple[int, int]:
    """Adapters that memory is set aside for on a GPU, and their largest rank; (0, 0) without any."""
    if not takes_adapters(environment):
        return 0, 0
    num = effective(environment, same_setting("MAX_ADAPTERS")) or _NUM_ADAPTERS
    rank = effective(environment, same_setting("MAX_ADAPTER_RANK")) or _RANK
    return int(num), int(rank)
