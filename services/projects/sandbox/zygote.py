"""The process that policies run beside: takes jobs from one socket, forks a cell for each, kills what takes too long.

Run as `python -m services.projects.sandbox.zygote SOCKET PARENT`. It holds nothing worth stealing, and dies with its
parent.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass, field

from services.projects.sandbox import cells, frames

MILLISECONDS = {b"e": 250, b"c": 1000}
"""How long a cell may live: to evaluate, and to check a source at upload, which builds its syntax tree."""


@dataclass(slots=True)
class Cell:
    """A fork at work."""

    job: int
    pid: int
    pipe: int
    began: float
    seconds: float
    said: bytearray = field(default_factory=bytearray)


class Zygote:
    """The loop, and the cells that are alive."""

    def __init__(self, service: socket.socket) -> None:
        self._service = service
        self._pid = os.getpid()
        self._cells: dict[int, Cell] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(service, selectors.EVENT_READ)
        self._asked = bytearray()

    def serve(self) -> None:
        """Work until the service closes the socket."""
        self._answer(frames.READY, frames.DONE, 0.0, b"")
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is not self._service:
                    self._hear(self._cells[key.fd])
                elif not self._read():
                    return
            for cell in [cell for cell in self._cells.values() if _left(cell) <= 0]:
                self._end(cell, frames.TIMED_OUT)

    def close(self) -> None:
        """Leave no cell behind."""
        for cell in self._cells.values():
            os.kill(cell.pid, signal.SIGKILL)

    def _patience(self) -> float | None:
        return max(0.0, min(map(_left, self._cells.values()))) if self._cells else None

    def _read(self) -> bool:
        """Take what the service sent and fork a cell for each whole frame; False at its end."""
        received = self._service.recv(1 << 16)
        self._asked += received
        while len(self._asked) >= frames.ASK.size:
            length, job = frames.ASK.unpack_from(self._asked)
            end = frames.ASK.size + length
            if len(self._asked) < end:
                break
            body = bytes(self._asked[frames.ASK.size : end])
            del self._asked[:end]
            self._fork(job, body)
        return bool(received)

    def _fork(self, job: int, body: bytes) -> None:
        """Start a cell. The first byte of the body says what kind of job it is; the cell reads the rest."""
        ours, theirs = os.pipe()
        began = time.monotonic()
        try:
            pid = os.fork()
        except OSError:
            os.close(ours)
            os.close(theirs)
            self._answer(job, frames.CRASHED, 0.0, b"")
            return
        if pid == 0:
            cells.run(body[1:], theirs, self._pid)
        os.close(theirs)
        self._cells[ours] = Cell(job, pid, ours, began, MILLISECONDS[body[:1]] / 1000)
        self._selector.register(ours, selectors.EVENT_READ)

    def _hear(self, cell: Cell) -> None:
        received = os.read(cell.pipe, 1 << 16)
        cell.said += received
        if len(cell.said) > frames.SIZE.size + frames.LONGEST_ANSWER:
            self._end(cell, frames.TOO_LARGE)
        elif not received:
            self._end(cell, frames.DONE if _is_whole(cell.said) else frames.CRASHED)

    def _end(self, cell: Cell, end: int) -> None:
        """Kill the cell, whatever it is doing, and say how it ended."""
        self._selector.unregister(cell.pipe)
        os.close(cell.pipe)
        del self._cells[cell.pipe]
        os.kill(cell.pid, signal.SIGKILL)  # its number is not used again before it was waited for
        os.waitpid(cell.pid, 0)
        body = bytes(cell.said[frames.SIZE.size :]) if end == frames.DONE else b""
        self._answer(cell.job, end, time.monotonic() - cell.began, body)

    def _answer(self, job: int, end: int, seconds: float, body: bytes) -> None:
        self._service.sendall(frames.ANSWER.pack(len(body), job, end, int(seconds * 1e6)) + body)


def _left(cell: Cell) -> float:
    return cell.began + cell.seconds - time.monotonic()


def _is_whole(said: bytearray) -> bool:
    """A cell's word counts only when all of it came: how the process ended afterwards says nothing."""
    return len(said) >= frames.SIZE.size and len(said) == frames.SIZE.size + frames.SIZE.unpack_from(said)[0]


def main(descriptor: int, parent: int) -> None:
    """Serve the service at the other end of the socket."""
    cells.die_with(parent)
    service = socket.socket(fileno=descriptor)
    cells.prepare()
    gc.collect()
    gc.freeze()  # a collection in a cell would copy every page that it touches
    zygote = Zygote(service)
    try:
        zygote.serve()
    except ConnectionError:  # the service died first
        pass
    finally:
        zygote.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
