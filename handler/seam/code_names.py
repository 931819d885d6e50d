"""Names of files with a user's own code: what the container runs, and what the engine says is not run.

Sources: sagemaker-huggingface-inference-toolkit (`inference.py`, also in `code/`), custom handlers of Inference
Endpoints (`handler.py`), model-hosting-container-standards (`model.py`). The deploy helper has a copy, as it imports
nothing of ours; a test compares them.
"""

from __future__ import annotations

CODE_FOLDER = "code"
INFERENCE = "inference.py"
HANDLER = "handler.py"
STANDARDS = "model.py"
REQUIREMENTS = "requirements.txt"
# At the top of a model's directory. In `code/` every Python file counts.
CUSTOM_CODE = (INFERENCE, HANDLER, STANDARDS, REQUIREMENTS)
