import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import task

# One process is enough for four requests; each imports torch.
os.environ["GUIDELLM__MAX_WORKER_PROCESSES"] = "1"


def errored_and_successful(route: str) -> list[int]:
    """Failed and successful requests of a short run."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "report.json"
        command = [
            *(str(Path(sys.executable).parent / "guidellm"), "run", "--disable-console"),
            *("--backend", f"kind=openai_http,target={task.URL},request_format={route}"),
            *("--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=4"),
            *("--tokenizer", f"kind=hf_auto,model={task.TOKENIZER}"),
            *("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=8"),
            *("--output", f"kind=json,path={output}"),
        ]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (benchmark,) = json.loads(output.read_text())["benchmarks"]
        totals = benchmark["metrics"]["request_totals"]
        return [totals["errored"], totals["successful"]]


task.report(
    chat_runs=errored_and_successful("/v1/chat/completions"), response_runs=errored_and_successful("/v1/responses")
)
