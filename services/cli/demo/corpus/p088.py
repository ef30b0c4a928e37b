"""The bot's `!sum` command."""
import operator

ACTIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def answer(message: str) -> str:
    command, _, text = message.partition(" ")
    if command != "!sum":
        return ""
    try:
        left, sign, right = text.split()
        value = ACTIONS[sign](float(left), float(right))
    except (KeyError, ValueError, ZeroDivisionError):
        return "I can work out sums like `3 * 4`."
    return f"{text} = {value}"
