"""The experiments service as a process of its own, for tests that kill it; settings and key come on standard input."""

import asyncio
import json
import sys
import time

from services.governance.experiments.__main__ import wire
from services.governance.experiments.settings import ExperimentsSettings
from services.kit.server import Runtime
from services.kit.tokens import SigningKey


async def main() -> None:
    given = json.loads(sys.stdin.readline())
    runtime = Runtime(ExperimentsSettings.of(given["settings"]))

    async def keys() -> list[SigningKey]:
        return [SigningKey("test", bytes.fromhex(given["key"]), time.time() - 60, time.time() + 86400)]

    runtime.trust(keys)
    await wire(runtime)
    await runtime.listen()
    sys.stdout.write(f"{runtime.plaintext_port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
