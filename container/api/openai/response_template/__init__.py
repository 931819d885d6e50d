"""A checkpoint's own `response_template`: how its answers split into thoughts, content and calls.

Version 1, as transformers 5.23 and 5.24 read it from tokenizer_config.json ("Response Parsing" in their documentation).
Own code: the web side loads neither transformers nor torch, and answers must not depend on how a stream is cut.
"""

from container.api.openai.response_template.model_template import ModelTemplate
from container.api.openai.response_template.reader import TemplateReader
from container.api.openai.response_template.template import ResponseTemplate

__all__ = ["ModelTemplate", "ResponseTemplate", "TemplateReader"]
