"""A plan as a page for a terminal: plain text, at most 80 columns.

Only a word of the command at the end may be longer: broken, it could not be copied.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from sagemaker_deploy.plan import Plan
from sagemaker_deploy.request.environment import redacted
from sagemaker_deploy.request.model_reference import ModelKind, ModelReference
from sagemaker_deploy.request.user_code import UserCode
from sagemaker_deploy.sizing.fit import OVERHEAD_MIB, Fit, refusal
from sagemaker_deploy.sizing.model_shape import ModelShape
from sagemaker_deploy.sizing.recommendation import form_of
from sagemaker_deploy.stand_ins import WHY_NEEDED, with_gaps

WIDTH = 80
_LABEL, _TYPE = 12, 20  # columns of a label, and of an instance type in a list


def page(plan: Plan, model: ModelReference, following: Sequence[str], code: UserCode | None = None) -> Iterator[str]:
    """Yield the lines of the page; `following` is the command to run next, word by word."""
    yield from _wrapped(f"PLAN  endpoint {plan.spec.name}: nothing was created")
    for title, rows in (
        ("MODEL", (*_model(plan, model), *_code(code))),
        ("MEMORY", _memory(plan)),
        ("INSTANCE", _instance(plan)),
        ("CONTAINER ENVIRONMENT", _environment(plan)),
        ("CALLS that `deploy` makes, in this order", _calls(plan, model, code)),
        ("MISSING for `deploy`", ((option, WHY_NEEDED[option]) for option in plan.missing)),
        ("WARNINGS", (("!", text) for text in plan.warnings)),
    ):
        lines = [line for label, text in rows for line in _row(label, text)]
        if lines:
            yield from ("", title, *lines)
    yield from ("", "NEXT", *_command(following))


def _model(plan: Plan, model: ModelReference) -> Iterator[tuple[str, str]]:
    sizes, shape = plan.sizes, plan.sizes.shape
    revision = f", revision {plan.spec.revision}" if plan.spec.revision else ""
    yield "Model", model.text + revision if model.text else "the small default model in the image"
    yield "Source", model.kind.value
    if sizes.read_from and shape:
        yield "Size", f"{_billions(shape)} parameters, {shape.dtype}, {shape.checkpoint_gb:.1f} GB of files"
        yield "Read", sizes.read_from
        yield "Context", f"{shape.max_context:,} tokens" if shape.max_context else "not stated"
    if sizes.not_read:
        yield "Not read", sizes.not_read
    if sizes.assumed:
        yield "Assumed", sizes.assumed


def _code(code: UserCode | None) -> Iterator[tuple[str, str]]:
    if code is not None:
        yield (
            "Code",
            f"{code.directory / code.main}: {', '.join(sorted(code.signatures.names)) or 'decorated functions'}",
        )
        yield "Packages", str(code.requirements or "none beside the container's")


def _billions(shape: ModelShape) -> str:
    count = shape.num_params
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.0f} million"


def _memory(plan: Plan) -> Iterator[tuple[str, str]]:
    fit, load, shape = plan.fit, plan.load, plan.sizes.shape
    if shape is None or load is None:
        yield "Unknown", "the model's sizes are not known"
        return
    if fit is None:
        yield "Not checked", _nothing(plan) if "--instance-type" in plan.missing else "only GPU instances are weighed"
        return
    requests = "1 request" if load.concurrency == 1 else f"{load.concurrency} requests"
    yield "Load", f"{requests} of {load.context:,} tokens at once"
    where = "one GPU" if fit.span == 1 else f"the fullest of {fit.span} GPUs"
    yield "Weights", f"{_mib(fit.weights_mib)}  {form_of(fit)}, on {where}"
    yield "Cache", f"{_mib(fit.kv_mib)}  {shape.kv_bytes_per_token / 1024:.0f} KiB for each token"
    yield "Overhead", f"{_mib(OVERHEAD_MIB)}  CUDA and activations"
    verdict = "it fits" if fit.fits else "IT DOES NOT LOAD" if fit.refused else "IT DOES NOT FIT"
    yield "Needed", f"{_mib(fit.needed_mib)}  of {fit.usable_mib:,} MiB usable: {verdict}"


def _mib(size: int) -> str:
    return f"{size:>9,} MiB"


def _instance(plan: Plan) -> Iterator[tuple[str, str]]:
    found = plan.recommendation
    if "--instance-type" in plan.missing:
        yield "Type", f"not given, and {_nothing(plan)}"
        return
    chosen = found and found.best.instance.name == plan.spec.instance_type
    yield "Type", f"{plan.spec.instance_count} x {plan.spec.instance_type}{_hardware(plan.fit)}"
    if found and chosen:
        yield "Reason", found.reason()
    elif found:
        yield "Recommended", f"{found.best.instance.name}, {_brief(found.best)}: {found.reason()}"
    others = [fit for fit in found.alternatives if fit.instance.name != plan.spec.instance_type] if found else []
    for i, fit in enumerate(others):
        yield "" if i else "Instead", f"{fit.instance.name:<{_TYPE}}{_brief(fit)}"
    quota = "not read: it needs AWS credentials with servicequotas:ListServiceQuotas"
    yield "Quota", quota if plan.quota is None else f"{plan.quota:.0f} for endpoints of this type"
    yield "Billed", "every instance from its start to its deletion, busy or idle"


def _nothing(plan: Plan) -> str:
    """Why no type is recommended."""
    if plan.sizes.shape is None:
        return "none can be recommended without sizes"
    return "the stored form does not load" if refusal(plan.sizes.shape) else "no GPU instance holds it"


def _hardware(fit: Fit | None) -> str:
    if fit is None:
        return ""
    memory = fit.instance.gpu_mib / 1024
    return f" ({fit.instance.num_gpus} x {fit.instance.gpu} with {memory:.0f} GiB, {fit.instance.ram_gib} GiB of RAM)"


def _brief(fit: Fit) -> str:
    split = f", split over {fit.span} GPUs" if fit.span > 1 else ""
    form = form_of(fit) if fit.quantize in ("none", "auto") else f"with --quantize {fit.quantize}"
    return f"{fit.instance.num_gpus} x {fit.instance.gpu}, {form}{split}"


def _environment(plan: Plan) -> Iterator[tuple[str, str]]:
    shown = with_gaps(redacted(plan.requests.model["PrimaryContainer"]["Environment"]), plan.missing)
    for key, value in shown.items():
        yield "", f"{key}={value}"


def _calls(plan: Plan, model: ModelReference, code: UserCode | None) -> Iterator[tuple[str, str]]:
    bodies = with_gaps(plan.requests.by_operation(), plan.missing)
    config = bodies["CreateEndpointConfig"]
    variant = config["ProductionVariants"][0]
    if model.kind is ModelKind.LOCAL or code is not None:
        yield "", f"S3 PutObject for each file, below {with_gaps(plan.spec.mounted, plan.missing)}"
    yield "", f"CreateModel {bodies['CreateModel']['ModelName']}"
    kind = "asynchronous, " if plan.spec.asynchronous else ""
    health = variant.get("ContainerStartupHealthCheckTimeoutInSeconds")
    limit = f", {health} s to become healthy" if health else ""
    instances = f"{variant['InitialInstanceCount']} x {variant['InstanceType']}"
    yield "", f"CreateEndpointConfig {config['EndpointConfigName']}: {kind}{instances}{limit}"
    yield "", f"CreateEndpoint {bodies['CreateEndpoint']['EndpointName']}"
    component = bodies.get("CreateInferenceComponent")
    if component:
        copies = component["RuntimeConfig"]["CopyCount"]
        yield "", f"CreateInferenceComponent {component['InferenceComponentName']}: {copies} x the model"
    yield "", "The exact bodies and both IAM policies: the same command with --json."


def _command(words: Sequence[str]) -> list[str]:
    """Words of a shell command as lines that a shell takes back."""
    lines = [f"  {words[0]}"]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return lines


def _row(label: str, text: str) -> list[str]:
    """A row: label and text, the text wrapped below itself. A long word, such as a URI, is broken."""
    is_type = label in ("", "Instead") and text.startswith("ml.")
    if label == "!":
        head, below = "  ! ", 0
    elif label or is_type:
        head, below = f"  {label:<{max(_LABEL, len(label) + 1)}}", _TYPE if is_type else 0
    else:
        head, below = "  ", 2
    indent = " " * (len(head) + below)
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
