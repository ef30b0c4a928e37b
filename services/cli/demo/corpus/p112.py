"""Invitations to a shared folder."""
import datetime
import uuid


class Invitations:
    def __init__(self) -> None:
        self.open: dict[str, tuple[str, datetime.datetime]] = {}

    def invite(self, folder: str, days: int = 7) -> str:
        until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
        name = uuid.uuid1().hex
        self.open[name] = (folder, until)
        return f"https://files.example.com/join/{name}"

    def accept(self, name: str) -> str | None:
        folder, until = self.open.pop(name, (None, None))
        return folder if until and until > datetime.datetime.now(datetime.timezone.utc) else None
