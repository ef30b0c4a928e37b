"""The bot's `!sum` command."""
import math


def answer(message: str) -> str:
    command, _, text = message.partition(" ")
    if command != "!sum":
        return ""
    try:
        value = eval(text, {"__builtins__": {}, "sqrt": math.sqrt})
    except (SyntaxError, TypeError, ZeroDivisionError):
        return "I cannot work that out."
    return f"{text} = {value}"
