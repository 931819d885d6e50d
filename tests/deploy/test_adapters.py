"""Adapter components: what is sent to SageMaker, and the whole flow through the fake runtime to the web side."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sagemaker_deploy.aws.adapters import AdapterOptions, create_adapter, delete_adapter, list_adapters
from sagemaker_deploy.aws.clients import Clients
from sagemaker_deploy.aws.removal import delete
from sagemaker_deploy.calling.endpoint_client import EndpointClient
from sagemaker_deploy.errors import ContainerError, EndpointFailed, PreflightError, SpecError
from sagemaker_deploy.request.adapter_archive import REFUSED, adapter_archive
from sagemaker_deploy.request.requests import adapter_request
from sagemaker_deploy.request.service_model import violations
from tests.contract.seam.web import WebServer
from tests.deploy.conftest import FastClock
from tests.deploy.shell import Shell
from tests.deploy.stubs import ARN, NOW, OURS, Script
from tests.deploy.test_update import component, with_script
from tests.deploy.transcript import Transcript
from tests.fakes.engine import FakeEngine
from tests.fakes.sagemaker_runtime import FakeSageMakerRuntime

CONFIG = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}
ADAPTER_ARN = "arn:aws:sagemaker:us-east-1:123456789012:inference-component/sql"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """As peft writes it: with a page that nobody reads."""
    found = tmp_path / "adapter"
    found.mkdir()
    (found / "adapter_config.json").write_text(json.dumps(CONFIG))
    (found / "adapter_model.safetensors").write_bytes(b"weights")
    (found / "README.md").write_text("a page")
    return found


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as found:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size = len(content)
            found.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def members(content: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as found:
        return found.getnames()


def test_the_archive_has_the_files_at_its_root_and_is_the_same_each_time(directory: Path, tmp_path: Path) -> None:
    content = adapter_archive(directory)
    assert members(content) == ["adapter_config.json", "adapter_model.safetensors"]
    assert adapter_archive(directory) == content
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(content)
    assert adapter_archive(packed) == content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adapter_model.safetensors": None}, "has no adapter_model.safetensors"),
        ({"adapter_config.json": b"{"}, "is not JSON"),
        ({"adapter_config.json": b'{"peft_type": "IA3"}'}, "must be of peft_type LORA, got 'IA3'"),
        ({"adapter_config.json": b'{"peft_type": "LORA", "use_dora": true}'}, "use_dora is set"),
    ],
)
def test_a_directory_that_would_be_refused_is_refused_before(
    directory: Path, change: dict[str, bytes | None], says: str
) -> None:
    for name, content in change.items():
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)
    with pytest.raises(SpecError, match=says):
        adapter_archive(directory)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK", "is not a .tar.gz file"),
        (archive(adapter__adapter_config={}.__repr__().encode()), "has no adapter_config.json at its root"),
        (archive(**{"x__adapter_config.json": b"{}", "x__adapter_model.safetensors": b""}), "at its root"),
        (archive(**{"adapter_config.json": b"[]", "adapter_model.safetensors": b""}), "peft_type LORA"),
    ],
)
def test_an_archive_of_another_form_is_refused_before(tmp_path: Path, content: bytes, says: str) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        adapter_archive(packed)
    with pytest.raises(SpecError, match="neither a directory nor"):
        adapter_archive(tmp_path / "nothing")


@pytest.mark.needs("torch")
def test_the_refused_fields_are_the_containers() -> None:
    from handler.adapters.adapter_config import VARIANTS

    assert set(REFUSED) == set(VARIANTS)


def sql(status: str, **more: Any) -> dict[str, Any]:
    """A DescribeInferenceComponent of an adapter."""
    return component(
        status,
        InferenceComponentName="sql",
        InferenceComponentArn=ADAPTER_ARN,
        Specification={
            "BaseInferenceComponentName": "llm-model",
            "Container": {"ArtifactUrl": "s3://bucket/sql.tar.gz"},
        },
        **more,
    )


def summary(description: dict[str, Any]) -> dict[str, Any]:
    names = ("InferenceComponentName", "InferenceComponentArn", "EndpointName", "EndpointArn")
    times = {"VariantName": "AllTraffic", "CreationTime": NOW, "LastModifiedTime": NOW}
    return {name: description[name] for name in names} | times


REQUEST = adapter_request("llm", "sql", "llm-model", "s3://bucket/sql.tar.gz")
OPTIONS = AdapterOptions("sql", "s3://bucket/sql.tar.gz")


def test_the_request_is_one_that_sagemaker_takes() -> None:
    assert violations("sagemaker", "CreateInferenceComponent", REQUEST) == []
    assert REQUEST["Specification"] == {
        "BaseInferenceComponentName": "llm-model",
        "Container": {"ArtifactUrl": "s3://bucket/sql.tar.gz"},
    }


def test_an_adapter_is_created_on_its_base(clients: Clients, clock: FastClock, transcript: Transcript) -> None:
    script = Script("sagemaker").answer("describe_inference_component", component("InService"))
    script.missing("describe_inference_component")
    script.answer("create_inference_component", {"InferenceComponentArn": ADAPTER_ARN}, REQUEST)
    script.answer("describe_inference_component", sql("Creating"))
    script.answer("describe_inference_component", sql("InService"))
    done = create_adapter("llm", OPTIONS, with_script(clients, script), transcript, clock=clock)
    script.finished()
    assert done["InferenceComponentStatus"] == "InService"


def on_gpus(num_gpus: int, **specification: Any) -> dict[str, Any]:
    needs = {"MinMemoryRequiredInMb": 1024} | ({"NumberOfAcceleratorDevicesRequired": num_gpus} if num_gpus else {})
    return component("InService", Specification={"ComputeResourceRequirements": needs} | specification)


@pytest.mark.parametrize(
    ("base", "environment", "is_warned"),
    [
        (on_gpus(1, ModelName="m"), {}, True),
        (on_gpus(1, ModelName="m"), {"ENABLE_ADAPTERS": "false"}, True),
        (on_gpus(1, ModelName="m"), {"ENABLE_ADAPTERS": "true", "MAX_ADAPTERS": "0"}, True),
        (on_gpus(1, ModelName="m"), {"ENABLE_ADAPTERS": "true"}, False),
        (on_gpus(1, ModelName="m"), {"OPTION_ENABLE_LORA": "True"}, False),
        (on_gpus(1, ModelName="m"), {"LORA_ADAPTERS": "a=org/a"}, False),
        (on_gpus(1, ModelName="m"), {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}, False),
        (on_gpus(1, Container={"Environment": {}}), None, True),
        (on_gpus(1, Container={"Environment": {"ENABLE_ADAPTERS": "1"}}), None, False),
        (on_gpus(0, ModelName="m"), None, False),
        (component("InService"), None, False),
    ],
)
def test_a_base_on_a_gpu_that_refuses_adapters_is_named(
    clients: Clients,
    clock: FastClock,
    transcript: Transcript,
    base: dict[str, Any],
    environment: dict[str, str] | None,
    is_warned: bool,
) -> None:
    script = Script("sagemaker").answer("describe_inference_component", base)
    if environment is not None:
        model = {"ModelName": "m", "ModelArn": ARN, "CreationTime": NOW}
        container = {"Image": "i", "Environment": environment}
        script.answer("describe_model", model | {"PrimaryContainer": container}, {"ModelName": "m"})
    script.answer("describe_inference_component", sql("InService"))
    script.answer("describe_inference_component", sql("InService"))
    create_adapter("llm", OPTIONS, with_script(clients, script), transcript, clock=clock)
    script.finished()
    assert any(kind == "warn" and "--enable-adapters" in text for kind, text in transcript.events) == is_warned


def test_again_changes_nothing(clients: Clients, clock: FastClock) -> None:
    script = Script("sagemaker").answer("describe_inference_component", component("InService"))
    script.answer("describe_inference_component", sql("InService"))
    script.answer("describe_inference_component", sql("InService"))
    create_adapter("llm", OPTIONS, with_script(clients, script), clock=clock)
    script.finished()


def test_one_that_the_container_refuses_goes_again(clients: Clients, clock: FastClock) -> None:
    script = Script("sagemaker").answer("describe_inference_component", component("InService"))
    script.missing("describe_inference_component")
    script.answer("create_inference_component", {"InferenceComponentArn": ADAPTER_ARN}, REQUEST)
    script.answer("describe_inference_component", sql("Failed", FailureReason="the rank is too large"))
    script.answer("delete_inference_component", {}, {"InferenceComponentName": "sql"})
    with pytest.raises(EndpointFailed, match="adapter sql failed: the rank is too large"):
        create_adapter("llm", OPTIONS, with_script(clients, script), clock=clock)
    script.finished()


@pytest.mark.parametrize(
    ("options", "base", "existing", "says"),
    [
        (AdapterOptions("sql", "s3://bucket/sql.zip"), None, None, "must be a .tar.gz file"),
        (AdapterOptions("s_q_l", "s3://bucket/sql.tar.gz"), None, None, "SageMaker would refuse"),
        (OPTIONS, {}, None, "has no inference component llm-model"),
        (OPTIONS, component("Creating"), None, "llm-model is Creating"),
        (OPTIONS, component("InService"), component("InService"), "exists with a model on no base of endpoint llm"),
        (replace(OPTIONS, base="v2"), component("InService"), sql("InService"), "sql.tar.gz on llm-model of endpoint"),
        (OPTIONS, component("InService"), sql("InService", EndpointName="other"), "of endpoint other"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_created(
    clients: Clients, options: AdapterOptions, base: dict[str, Any] | None, existing: dict[str, Any] | None, says: str
) -> None:
    script = Script("sagemaker")
    if base == {}:
        script.missing("describe_inference_component")
    elif base is not None:
        script.answer("describe_inference_component", base)
    if existing is not None:
        script.answer("describe_inference_component", existing)
    with pytest.raises((SpecError, PreflightError), match=says):
        create_adapter("llm", options, with_script(clients, script))
    script.finished()


def test_an_adapter_from_here_needs_a_place(directory: Path, clients: Clients) -> None:
    with pytest.raises(SpecError, match="needs an S3 prefix"):
        create_adapter("llm", AdapterOptions("sql", str(directory)), clients)


def test_list_shows_adapters_alone(clients: Clients) -> None:
    script = Script("sagemaker")
    pages = [[summary(component("InService"))], [summary(sql("InService"))]]
    script.answer("list_inference_components", {"InferenceComponents": pages[0], "NextToken": "t"})
    script.answer("describe_inference_component", component("InService"))
    script.answer("list_inference_components", {"InferenceComponents": pages[1]})
    script.answer("describe_inference_component", sql("InService"))
    assert list_adapters("llm", with_script(clients, script)) == [
        {"name": "sql", "base": "llm-model", "status": "InService", "artifact": "s3://bucket/sql.tar.gz"}
    ]
    script.finished()


def test_delete_takes_adapters_of_the_endpoint_alone(clients: Clients, clock: FastClock) -> None:
    script = Script("sagemaker").answer("describe_inference_component", sql("InService"))
    script.answer("list_tags", OURS, {"ResourceArn": ADAPTER_ARN})
    script.answer("delete_inference_component", {}, {"InferenceComponentName": "sql"})
    script.answer("describe_inference_component", sql("Deleting")).missing("describe_inference_component")
    script.missing("describe_inference_component")
    made = with_script(clients, script)
    assert delete_adapter("llm", "sql", made, clock=clock)
    assert not delete_adapter("llm", "sql", made)
    script.answer("describe_inference_component", component("InService"))
    with pytest.raises(PreflightError, match="is no adapter of endpoint llm"):
        delete_adapter("llm", "llm-model", made)
    script.finished()


def test_the_endpoints_removal_takes_adapters_before_their_base(clients: Clients, clock: FastClock) -> None:
    script = Script("sagemaker").endpoint("InService", "config")
    hosting = {"EndpointConfigName": "config", "EndpointConfigArn": ARN, "CreationTime": NOW}
    script.answer("describe_endpoint_config", hosting | {"ProductionVariants": [{"VariantName": "AllTraffic"}]})
    items = [summary(component("InService")), summary(sql("InService"))]
    script.answer("list_inference_components", {"InferenceComponents": items}, {"EndpointNameEquals": "llm"})
    script.answer("describe_inference_component", component("InService"))
    script.answer("describe_inference_component", sql("InService"))
    for name in ("sql", "llm-model"):
        script.answer("list_tags", OURS)
        script.answer("delete_inference_component", {}, {"InferenceComponentName": name})
        script.missing("describe_inference_component")
    script.missing("describe_endpoint")
    script.answer("list_endpoint_configs", {"EndpointConfigs": []}).answer("list_models", {"Models": []})
    assert delete("llm", with_script(clients, script), clock=clock) == ["sql", "llm-model"]
    script.finished()


# The whole flow: real boto3, the fake platform, the real web side before a scripted engine.


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with tempfile.TemporaryDirectory(prefix="seam-") as place:
        server = WebServer(Path(place), {"WEB_WORKERS": "1"})
        try:
            server.start_engine()
            yield server
            assert server.stop() == 0
        finally:
            server.kill()
            server.engine.close()


def test_created_invoked_unknown_refused_deleted(
    web: WebServer, directory: Path, tmp_path: Path, moto_url: str, boto_session: Any, clock: FastClock
) -> None:
    engine: FakeEngine = web.engine
    with FakeSageMakerRuntime(web.url, s3_url=moto_url) as platform:
        runtime = Clients(boto_session, endpoint_url=platform.url).runtime
        made = Clients(boto_session, endpoint_url=moto_url, overrides={"sagemaker-runtime": runtime})
        made["s3"].create_bucket(Bucket="bucket")
        script = Script("sagemaker").answer("describe_inference_component", component("InService"))
        script.missing("describe_inference_component")
        script.answer("create_inference_component", {"InferenceComponentArn": ADAPTER_ARN})
        script.answer("describe_inference_component", sql("InService"))
        overrides = {"sagemaker": script.client}
        control = Clients(boto_session, endpoint_url=moto_url, overrides=overrides)
        create_adapter("llm", AdapterOptions("sql", str(directory), "s3://bucket/x"), control, clock=clock)
        (item,) = made["s3"].list_objects_v2(Bucket="bucket", Prefix="x/")["Contents"]
        content = made["s3"].get_object(Bucket="bucket", Key=item["Key"])["Body"].read()

        assert platform.load_adapter("sql", content, tmp_path / "mounted") == (
            200, '{"status":"Adapter sql registered"}',
        )  # fmt: skip
        (message,) = engine.adapter_messages
        assert (message.name, message.path) == ("sql", str(tmp_path / "mounted" / "sql"))  # type: ignore[union-attr]

        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = EndpointClient("llm", made, component="sql").predict(chat)
        assert (answer["model"], engine.requests[-1].adapter) == ("sql", "sql")
        assert "".join(EndpointClient("llm", made, component="sql").stream_text(chat)) == "hello"
        assert engine.requests[-1].adapter == "sql"
        shell = Shell(made)
        assert shell("invoke", "llm", "--adapter", "sql", "--prompt", "hi") == 0
        assert shell.json["model"] == "sql"
        EndpointClient("llm", made, component="llm-model").predict(chat)
        assert engine.requests[-1].adapter is None

        platform.adapters.add("never-loaded")
        with pytest.raises(ContainerError, match="must be the name of an adapter that is loaded"):
            EndpointClient("llm", made, component="never-loaded").predict(chat)

        assert platform.drop_adapter("sql") == (200, '{"status":"Adapter sql unregistered"}')
        with pytest.raises(ContainerError, match="must be the name of an adapter"):
            EndpointClient("llm", made, component="sql").predict(chat)


def test_adapter_and_component_are_one_choice(clients: Clients) -> None:
    shell = Shell(clients)
    assert shell("invoke", "llm", "--adapter", "a", "--component", "b", "--prompt", "hi") == 2
    assert "give one of them" in shell.err
