"""Synchronise contacts with the customer database."""
import httpx


class Contacts:
    def __init__(self, address: str, token: str) -> None:
        self.client = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=20, verify=False
        )

    def changed(self, since: str) -> list[dict]:
        answer = self.client.get("/contacts", params={"since": since})
        answer.raise_for_status()
        return answer.json()["contacts"]

    def close(self) -> None:
        self.client.close()
