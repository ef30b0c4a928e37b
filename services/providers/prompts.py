"""Prompts: what a call asks of a model, and how many tokens that may come to.

The estimate is meant to be too high: one token for three bytes and some for each message. It is what is held, and what
is charged where a provider does not count.
"""

from math import ceil
from typing import Any

from services.kit import faults
from services.providers.adapters import Prompt
from triptych.providers.v1 import model_pb2

BYTES_A_TOKEN = 3
TOKENS_A_MESSAGE = 8
ROLES = {
    model_pb2.CHAT_ROLE_SYSTEM: "system",
    model_pb2.CHAT_ROLE_USER: "user",
    model_pb2.CHAT_ROLE_ASSISTANT: "assistant",
}


def of(request: Any, *, longest: int) -> Prompt:
    """Read the prompt of a request, for a provider whose answers have so many tokens at most."""
    messages = [(ROLES[message.role], message.content) for message in request.messages]
    if all(role == "system" for role, _ in messages):
        problem = "one message at least must be the user's or the assistant's"
        raise faults.RequestInvalid(f"messages: {problem}", violations={"messages": problem}, fields="messages")
    most = min(request.max_output_tokens or longest, longest)
    temperature = request.temperature if request.HasField("temperature") else None
    return Prompt(messages, most, temperature, list(request.stop_sequences))


def input_tokens(prompt: Prompt) -> int:
    """Estimate the tokens of a prompt."""
    return sum(output_tokens(len(content.encode())) + TOKENS_A_MESSAGE for _, content in prompt.messages)


def output_tokens(size: int) -> int:
    """Estimate the tokens of so many bytes of text."""
    return ceil(size / BYTES_A_TOKEN)
