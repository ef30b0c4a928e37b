"""Import playlists that users upload as YAML."""
from dataclasses import dataclass

import yaml


@dataclass
class Track:
    title: str
    seconds: int


def read(upload: bytes) -> list[Track]:
    document = yaml.load(upload, Loader=yaml.Loader)
    if not isinstance(document, dict):
        raise ValueError("a playlist is a mapping with the key `tracks`")
    return [Track(str(track["title"]), int(track["seconds"])) for track in document["tracks"]]
