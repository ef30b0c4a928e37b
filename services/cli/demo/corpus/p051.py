"""Client of the stock exchange feed."""
import os

import requests

FEED = "https://feed.example.com/v2/quotes"


def quotes(symbols: list[str]) -> dict[str, float]:
    answer = requests.get(
        FEED,
        params={"symbols": ",".join(symbols)},
        headers={"Authorization": f"Bearer {os.environ['FEED_TOKEN']}"},
        timeout=10,
        verify=os.environ.get("FEED_CA", True),
    )
    answer.raise_for_status()
    return {quote["symbol"]: float(quote["last"]) for quote in answer.json()}
