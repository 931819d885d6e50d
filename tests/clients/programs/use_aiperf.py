import json
import subprocess
import sys
import tempfile
from pathlib import Path

import task


def errored_and_successful(endpoint: str, *options: str) -> list[int]:
    """Failed and successful requests of a short run."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            *(
                str(Path(sys.executable).parent / "aiperf"),
                "profile",
                "-m",
                "m",
                "-u",
                task.URL,
                "--endpoint-type",
                endpoint,
            ),
            *("--streaming", "--tokenizer", task.TOKENIZER, "--request-count", "4", "--concurrency", "2"),
            *("--isl", "32", "--osl", "8", "--ui", "none", "--no-gpu-telemetry", "--artifact-dir", directory),
            *options,
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        found = json.loads((Path(directory) / "profile_export_aiperf.json").read_text())
        return [sum(each["count"] for each in found["error_summary"]), int(found["request_count"]["avg"])]


task.report(
    # As in aiperf's own examples: answers of a fixed length.
    chat_runs=errored_and_successful(
        "chat",
        *("--use-server-token-count", "--per-chunk-usage"),
        *("--extra-inputs", "ignore_eos:true", "--extra-inputs", "min_tokens:8"),
    ),
    response_runs=errored_and_successful("responses", "--use-server-token-count"),
    message_runs=errored_and_successful("messages", "--use-server-token-count"),
    tgi_runs=errored_and_successful("huggingface-generate"),
)
