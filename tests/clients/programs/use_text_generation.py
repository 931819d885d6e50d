"""TGI's client beside the huggingface_hub that it asks for, which is of TGI's time."""

import asyncio

import task
from huggingface_hub import InferenceClient
from text_generation import AsyncClient, Client
from text_generation.errors import ValidationError
from text_generation.types import Message

PROMPT = "The capital of France is"
client = Client(task.URL)
messages = [Message(**message) for message in task.MESSAGES]
whole = client.generate(PROMPT, max_new_tokens=6)
events = list(client.generate_stream(PROMPT, max_new_tokens=6))
hub = InferenceClient(task.URL)

try:
    client.generate(PROMPT, max_new_tokens=6, temperature=0)
except ValidationError as refused:
    error = str(refused)

task.report(
    # It takes no temperature of 0: of two tokens that are as likely either is drawn.
    drawn_chat=client.chat(messages, max_tokens=task.MAX_TOKENS, temperature=0.01).choices[0].message.content,
    generated_tokens=whole.details.generated_tokens,
    generate=whole.generated_text,
    generate_stream="".join(event.token.text for event in events),
    generate_async=asyncio.run(AsyncClient(task.URL).generate(PROMPT, max_new_tokens=6)).generated_text,
    hub_chat=hub.chat_completion(task.MESSAGES, max_tokens=task.MAX_TOKENS, temperature=0).choices[0].message.content,
    stream=[
        chunk.choices[0].delta.content or ""
        for chunk in hub.chat_completion(task.MESSAGES, max_tokens=task.MAX_TOKENS, temperature=0, stream=True)
    ],
    hub_text_generation=hub.text_generation(PROMPT, max_new_tokens=6),
    error=error,
)
