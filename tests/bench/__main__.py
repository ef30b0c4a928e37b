"""`make bench`: run all benches, or those that are named (commas between), print the table, write build/bench.json."""

import asyncio
import statistics
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.cli.stack.backends import Backends
from tests.bench import audit, keys, logins, quotas, rates, starts, tokens
from tests.bench.results import Result, keep, ratio, show
from tests.conftest import TEMPLATE, _migrate
from tests.suite import Issuer
from triptych.common.v1.role_pb2 import Role

TENANT = str(uuid.uuid4())


def interceptor() -> list[Result]:
    """The kit's interceptor around a handler that does nothing, against the handler alone."""

    async def run() -> list[Result]:
        issuer = Issuer()
        given = {"issuer": "https://triptych.local", "key": (await _key(issuer)).hex()}
        async with rates.side("intercepted", given) as ours, rates.side("echo", given) as anchor:
            pairs = await rates.paired(ours, anchor, str(uuid.uuid4()), _token(issuer))
            cpu = statistics.median(ours.cpu) / statistics.median(anchor.cpu)
        note = f"calls/s, {rates.CALLERS} callers, 1 client process; server processor time per call x{cpu:.2f}"
        return [ratio("interceptor_vs_echo", pairs, goal=">= 0.80", note=note)]

    return asyncio.run(run())


def point_read() -> list[Result]:
    """GetProject of the projects service, against a hand-written asyncpg handler on the same database."""
    with tempfile.TemporaryDirectory(prefix="triptych-bench-") as folder:
        Path(folder).chmod(0o755)
        backends = Backends(Path(folder) / "stack")
        backends.start()
        try:
            return asyncio.run(_point_read(backends))
        finally:
            backends.stop()


async def _point_read(backends: Backends) -> list[Result]:
    backends.create_database(TEMPLATE)
    await _migrate(backends, TEMPLATE)
    issuer = Issuer()
    settings = backends.service_settings("projects", database=TEMPLATE)
    settings |= {"listen": "127.0.0.1:0", "listen_plaintext": "127.0.0.1:0", "neighbours": {}, "relay_user": ""}
    settings.pop("metrics_listen", None)
    server = backends.postgres_server
    app = "triptych_projects_app"
    pool = {
        "host": server.host,
        "port": server.port,
        "user": app,
        "password": backends.password(app),
        "database": TEMPLATE,
    }
    superuser = await server.connect(TEMPLATE)
    project_id = await superuser.fetchval(
        "INSERT INTO projects.projects (tenant_id, name, description, owner_id, settings, configuration_defaults)"
        " VALUES ($1, 'bench', 'read again and again', $1, '{}', '{}') RETURNING id::text",
        TENANT,
    )
    await superuser.close()
    ours_given = {"settings": settings, "key": (await _key(issuer)).hex()}
    anchor_given = {"pool": pool, "tenant_id": TENANT}
    async with rates.side("projects", ours_given) as ours, rates.side("asyncpg", anchor_given) as anchor:
        pairs = await rates.paired(ours, anchor, project_id, _token(issuer))
        cpu = statistics.median(ours.cpu) / statistics.median(anchor.cpu)
    note = f"calls/s, {rates.CALLERS} callers, 8 connections each; server processor time per call x{cpu:.2f}"
    return [ratio("point_read_vs_asyncpg", pairs, goal=">= 0.75", note=note)]


async def _key(issuer: Issuer) -> bytes:
    return next(iter(await issuer.keys())).public_key


def _token(issuer: Issuer) -> str:
    claims: dict[str, Any] = {"sub": str(uuid.uuid4()), "tid": TENANT, "kind": "user", "role": int(Role.ROLE_ADMIN)}
    return issuer.token(claims | {"exp": 2**33})


BENCHES: dict[str, Callable[[], list[Result]]] = {
    "interceptor_vs_echo": interceptor,
    "point_read_vs_asyncpg": point_read,
    "start_first_s": starts.measure,
    "login_vs_argon2": logins.rate,
    "login_flood_p99": logins.flood,
    "token_vs_echo": tokens.token_vs_echo,
    "revocation_p99_s": tokens.sessions_on_the_stack,
    "append_vs_copy": audit.appends,
    "verify_vs_sha256": audit.verification,
    "proof_bytes": audit.proofs,
    "checkpoint_lag_p99_s": audit.lag,
    "append_at_million": audit.growth,
    "resolve_vs_vault_client": keys.resolve,
    "rewrap_vs_transit": keys.rewrap,
    "reserve_p50_vs_evalsha": quotas.measure,
}
ALSO = {
    "refresh_round_trips": "revocation_p99_s",
    "refresh_per_core": "revocation_p99_s",
    "append_vs_trigger": "append_vs_copy",
    "append_8_callers": "append_vs_copy",
    "verify_offline_vs_sha256": "verify_vs_sha256",
    "resolve_vs_vault_core": "resolve_vs_vault_client",
    "resolve_vs_echo": "resolve_vs_vault_client",
    "ledger_vs_insert": "reserve_p50_vs_evalsha",
    "start_second_s": "start_first_s",
    "rss_mb": "start_first_s",
}


def main(arguments: list[str]) -> None:
    """Run what is named, or all."""
    named = [name for argument in arguments for name in argument.split(",") if name]
    if unknown := [name for name in named if name not in BENCHES and name not in ALSO]:
        sys.exit(f"no such bench: {', '.join(unknown)}; there are {', '.join([*BENCHES, *ALSO])}")
    chosen = {ALSO.get(name, name) for name in named} or set(BENCHES)
    results = [result for name, run in BENCHES.items() if name in chosen for result in run()]
    show(results)
    print(f"\nwritten to {keep(results)}")


if __name__ == "__main__":
    main(sys.argv[1:])
