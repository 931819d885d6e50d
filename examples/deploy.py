"""Deploy, ask, stream, delete: `python examples/deploy.py --image URI --role ARN [--model-id ID]`.

Needs AWS credentials and a region. The instance is billed until this script deletes it, after a failure too.
"""

from __future__ import annotations

import argparse
import sys

from sagemaker_deploy import Clients, DeploySpec, delete, deploy

QUESTION = {"messages": [{"role": "user", "content": "What is deep learning?"}], "max_tokens": 60}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True)
    parser.add_argument("--role", required=True)
    parser.add_argument("--model-id", default="Qwen/Qwen3-8B")
    parser.add_argument("--instance-type", default="ml.g6.2xlarge")
    parser.add_argument("--name", default="llm-example")
    options = parser.parse_args(arguments)
    clients = Clients()
    spec = DeploySpec(
        name=options.name,
        image=options.image,
        role=options.role,
        model_id=options.model_id,
        instance_type=options.instance_type,
    )
    try:
        endpoint = deploy(spec, clients)
        answer = endpoint.predictor.predict(QUESTION)
        sys.stdout.write(f"{answer['choices'][0]['message']['content']}\n---\n")
        for text in endpoint.client.stream_text(QUESTION):
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
    finally:
        delete(options.name, clients)
    return 0


if __name__ == "__main__":
    sys.exit(main())
