"""Anchors: what ties the logs to somebody outside of the database: the super-log, and a witness who has seen it grow.

Each round lists the heads that were signed, signs the super-log over them, and has the witness sign that. At the start
the database is held against what the witness has seen; where it is behind or different, the service does not start.
"""

import asyncio
import base64
from dataclasses import dataclass

import structlog

from services.audit import breaks, checkpoints, heads, merkle, overrides, tiles
from services.audit.breaks import AnchorBroken
from services.audit.envelopes import SUPER_TENANT
from services.audit.heads import Listed
from services.audit.signers import Signer
from services.audit.verifier import Bad, Checkpoint, Cosignature, extends
from services.audit.witnesses import Cosigned, Overtaken, Refused, Witness
from services.kit.db import Database, Row, Transaction
from triptych.audit.v1 import event_pb2

TRIES = 5
"""How often a process asks the witness again when others were faster."""
_COSIGNED = """
    SELECT witness, public_key, signature, cosign_time FROM cosignatures
    WHERE tenant_id = $1 AND size = $2 ORDER BY witness
"""
_COSIGN = """
    INSERT INTO cosignatures (tenant_id, size, witness, public_key, signature, cosign_time)
    VALUES ($1, $2, $3, $4, $5, to_timestamp($6)) ON CONFLICT DO NOTHING
"""
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """How a log stands in the super-log."""

    listed: Listed
    cosignatures: list[event_pb2.Cosignature]


class Anchor:
    """The super-log of this installation and its witness, if there is one."""

    def __init__(self, *, db: Database, signer: Signer, witness: Witness | None) -> None:
        self._db = db
        self._signer = signer
        self._witness = witness
        self._round = asyncio.Lock()
        self._said = ""

    async def check(self, accepted: str) -> None:
        """Hold the database against what was witnessed; AnchorBroken unless it holds or somebody accepted just this."""
        seen = await self._remembered()
        found = await breaks.compare(self._db, seen)
        if found is not None:
            if accepted != found.token:
                raise AnchorBroken(
                    f"the database is not what was witnessed: {found.problem}. Entries were removed, or an older backup"
                    " was restored: restore the newest. To go on with what is there, start with the setting"
                    f" accept_broken_anchor = {found.token}; that is recorded in the system's log. (`triptych up`"
                    f" writes its settings anew: TRIPTYCH_ACCEPT_BROKEN_ANCHOR={found.token} in its environment)"
                )
            await breaks.accept(self._db, found, seen, self._name)
        await breaks.tell(self._db)
        if found is not None or await breaks.unwitnessed(self._db, seen):
            await self._signer.sign_news()
            await self._begin_again()

    async def _begin_again(self) -> None:
        """Have the witness sign what follows an operator's decision; AnchorBroken, and no start, when it does not."""
        recorded = "What was accepted is recorded, and not served before the witness has signed what follows"
        try:
            await self.round()
        except OSError as error:
            raise AnchorBroken(f"the witness cannot be asked: {error}. {recorded}: repair it and start again") from None
        except Bad as bad:
            raise AnchorBroken(
                f"{bad.text}. {recorded}: remove the reason and start again, no new setting is needed. Or leave the"
                " setting witness_dir out, or begin with a witness in another, empty folder: then this one vouches for"
                " nothing that comes; keep what it has signed. (`triptych up` writes its settings anew:"
                " TRIPTYCH_AUDIT_WITNESS_DIR in its environment names the other folder)"
            ) from None

    async def round(self) -> None:
        """List and sign what is new, and have the witness sign it; Bad when something does not hold."""
        async with self._round:
            try:
                while await self._enlist() == heads.MOST:
                    pass
                await self._signer.cover(SUPER_TENANT)
                for _ in range(TRIES):
                    if await self._cosign():
                        return
            except merkle.TileMissing as missing:
                raise Bad("tampered", f"the super-log: {missing}") from None
            except Refused as refused:
                raise Bad(refused.verdict, f"{refused.text} (witness {self._name})") from None
            raise Bad("unanchored", f"the witness {self._name} is busy with other processes of this service")

    async def go_round(self) -> None:
        """Go round once, for the loop of the signer; what does not hold is said once."""
        try:
            await self.round()
        except Bad as bad:
            if self._said != bad.text:
                self._said = bad.text
                _log.error("anchor refused", verdict=bad.verdict, finding=bad.text)

    async def find(self, tenant_id: str) -> Standing:
        """Give how a log stands in the newest super-checkpoint; CheckpointNotFound before it does."""
        async with self._db.begin(tenant=SUPER_TENANT) as tx:
            listed = await heads.find(tx, tenant_id)
            rows = await tx.connection.fetch(_COSIGNED, tx.tenant_id, listed.checkpoint["size"])
        return Standing(listed, [_wire(row) for row in rows])

    @property
    def _name(self) -> str:
        return self._witness.name if self._witness is not None else ""

    async def _remembered(self) -> Cosigned | None:
        """Give what the witness signed last; a witness that cannot be asked is no reason to trust the database."""
        if self._witness is None:
            return None
        try:
            return await self._witness.latest()
        except (OSError, Refused) as error:
            raise AnchorBroken(
                f"the witness cannot be asked: {error}. Repair it; or leave the setting witness_dir out, and nothing"
                " outside of the database says whether it is the newest"
            ) from None

    async def _enlist(self) -> int:
        async with self._db.begin(tenant=SUPER_TENANT) as tx:
            return await heads.enlist(tx, self._signer.origin)

    async def _cosign(self) -> bool:
        """Bring the newest super-checkpoint to the witness, keep what it signs; False when another came first."""
        if self._witness is None:
            return True
        seen = await self._witness.latest()  # before the newest is read, which can only be as new or newer
        async with self._db.begin(tenant=SUPER_TENANT) as tx:
            newest = await checkpoints.newest(tx)
            ours = checkpoints.statement(newest) if newest is not None else None
            if ours is not None and ours.log_id != (await overrides.newest(tx)).log_id:
                return True  # of the super-log before an operator's decision; the next is of this one
            held = seen.checkpoint if seen is not None and _same_log(seen.checkpoint, ours) else None
            proof = await _proof(tx, held, ours)
        if ours is None:
            return True
        if seen is not None and seen.checkpoint.note == ours.note:
            cosignature = seen.cosignature  # it signed, and the answer was lost
        elif held is not None and held.size == ours.size:
            return True  # the same heads, signed at another moment
        else:
            try:
                cosignature = await self._witness.add_checkpoint(held.size if held is not None else 0, proof, ours)
            except Overtaken:
                return False
        await self._store(ours, cosignature)
        return True

    async def _store(self, checkpoint: Checkpoint, cosignature: Cosignature) -> None:
        async with self._db.begin(tenant=SUPER_TENANT) as tx:
            await tx.connection.execute(
                _COSIGN,
                tx.tenant_id,
                checkpoint.size,
                cosignature.witness,
                cosignature.public_key,
                cosignature.signature,
                cosignature.seconds,
            )


async def _proof(tx: Transaction, held: Checkpoint | None, ours: Checkpoint | None) -> list[bytes]:
    """Give the proof that ours grew out of what the witness holds."""
    if held is None:
        return []
    if ours is None or ours.size < held.size:
        size = ours.size if ours is not None else 0
        raise Bad("incomplete", f"the super-log has {size} heads, and the witness has signed {held.size}")
    proof = await tiles.hashes(tx, merkle.consistency(held.size, ours.size))
    if not extends(old_size=held.size, old_root=held.root, size=ours.size, root=ours.root, hashes=proof):
        raise Bad("tampered", f"the super-log does not begin with the {held.size} heads that the witness signed")
    return proof


def _same_log(seen: Checkpoint, ours: Checkpoint | None) -> bool:
    return ours is None or seen.log_id == ours.log_id


def _wire(row: Row) -> event_pb2.Cosignature:
    made = event_pb2.Cosignature(
        witness=row["witness"],
        signature=base64.b64encode(row["signature"]).decode(),
        public_key=base64.b64encode(row["public_key"]).decode(),
    )
    made.cosign_time.FromDatetime(row["cosign_time"])
    return made
