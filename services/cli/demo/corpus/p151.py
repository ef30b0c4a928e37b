"""Read the partner's answer to a booking."""
from xml.dom import minidom


class Refused(Exception):
    """The partner refused the booking."""


def text(node) -> str:
    return "".join(child.data for child in node.childNodes if child.nodeType == child.TEXT_NODE)


def booking(answer: str) -> str:
    document = minidom.parseString(answer)
    refusals = document.getElementsByTagName("refusal")
    if refusals:
        raise Refused(text(refusals[0]))
    return text(document.getElementsByTagName("reference")[0])
