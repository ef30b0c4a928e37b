"""Count the elements of a large document that a user sent."""
import xml.sax
from xml.sax.handler import ContentHandler


class Counter(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def startElement(self, name, attributes):
        self.seen[name] = self.seen.get(name, 0) + 1


def count(path: str) -> dict[str, int]:
    counter = Counter()
    xml.sax.parse(path, counter)
    return counter.seen
