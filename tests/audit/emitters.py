"""An emitter to be killed: `python -m tests.audit.emitters FILE < settings.json`.

It writes events into the outbox of projects, notes in FILE what was committed, and runs the kit's relay.
"""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path

import asyncpg
import uvloop

from services.kit import faults, outbox
from services.kit.clients import Neighbours
from services.kit.db import Database
from services.kit.identity import Identity
from services.kit.relays import Relay, Wakening
from services.kit.settings import Settings
from services.kit.telemetry import Metrics
from services.kit.vault import Vault

GROUP = 5
"""Events of a transaction."""
PAUSE = 0.004
AWAY = (faults.Fault, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


async def emit(db: Database, tenant_id: str, notes: int) -> None:
    """Write events for as long as the process lives; a line in the notes means that they were committed."""
    while True:
        names = [str(uuid.uuid4()) for _ in range(GROUP)]
        try:
            async with db.begin(tenant=tenant_id) as tx:
                for name in names:
                    await outbox.record(
                        tx, f"load:{name}", {"name": name}, action="projects.load.emit", actor=("service", "projects")
                    )
        except AWAY:
            await asyncio.sleep(0.05)
            continue
        os.write(notes, f"{' '.join(names)}\n".encode())
        await asyncio.sleep(PAUSE)


async def main(path: Path, given: dict[str, object]) -> None:
    """Emit and deliver."""
    settings = Settings.of(given["settings"])  # type: ignore[arg-type]  # JSON
    identity = Identity(service="projects", trust_domain=settings.trust_domain, vault=Vault(settings))
    await identity.obtain()
    wakening = Wakening()
    neighbours = Neighbours(targets={"audit": str(given["audit"])}, identity=identity)
    db = await Database.connect(settings, wake=wakening.wake)
    outgoing = await Database.connect(
        settings, user=settings.relay_user, password=settings.secret(settings.relay_password_file), size=2
    )
    relay = Relay(service="projects", db=outgoing, neighbours=neighbours, metrics=Metrics(), wakening=wakening)
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    await asyncio.gather(relay.run(), emit(db, str(given["tenant_id"]), notes))


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), json.loads(sys.stdin.readline())))
