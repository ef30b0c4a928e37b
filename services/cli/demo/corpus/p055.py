"""Count the elements of a large document that a user sent."""
from xml.sax.handler import ContentHandler

from defusedxml import sax


class Counter(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def startElement(self, name, attributes):
        self.seen[name] = self.seen.get(name, 0) + 1


def count(path: str) -> dict[str, int]:
    counter = Counter()
    sax.parse(path, counter)
    return counter.seen
