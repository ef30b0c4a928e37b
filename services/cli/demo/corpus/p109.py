"""Show the text behind an address that a user pasted."""
import html
import sys
import urllib.request

LIMIT = 1 << 20


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read(LIMIT).decode(errors="replace")


def show(address: str) -> str:
    return f"<pre>{html.escape(fetch(address))}</pre>"


print(show(sys.argv[1]))
