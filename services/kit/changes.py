"""Changes: an UPDATE that tells of itself. Old and new values reach the outbox in the statement that changes the row.

    _rename = Change(update(table).where(…).values(name=param("name")).returning(*table.c), kind="project")
    row = await _rename.one(tx, details, id=…, name=…)  # None, and no event, when no row matched

The event is that of `outbox.record`, with `changes` beside its details: `{column: {"old": …, "new": …}}`, changed
columns only. Left out are columns that the Table does not name, secret and quiet ones, and all bytes. JSON columns are
told as text, what is long by its digest, personal columns as commitments.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import ColumnClause, LargeBinary, Text, Update, bindparam, cast, func, insert, literal_column, select
from sqlalchemy.dialects.postgresql import JSONB

from services.kit import outbox
from services.kit.db import Row, Statement, Transaction

QUIET = ("revision", "update_time")
"""Columns that change with every change."""
LARGEST_VALUE = 512
"""Bytes of a value as JSON. A longer one is told by length and SHA-256; a personal one stays a commitment alone."""
LARGEST = 6 * 1024
"""Bytes of all changes of a row as JSON; with `details` they must stay below what an event may hold."""
_EVENT = ("tenant_id", "action", "actor_kind", "actor_id", "correlation_id")
# Numbers that the log does not take become text, as outbox.record has it; so do objects and lists, whose numbers nobody
# looks at here.
_VALUE = """
    CASE jsonb_typeof({0})
        WHEN 'number' THEN CASE WHEN ({0})::numeric % 1 = 0 AND abs(({0})::numeric) < 9007199254740992
            THEN to_jsonb(({0})::numeric::bigint) ELSE to_jsonb({0} #>> '{{}}') END
        WHEN 'object' THEN to_jsonb(({0})::text) WHEN 'array' THEN to_jsonb(({0})::text) ELSE {0} END
"""
_SHORT = f"""
    CASE WHEN octet_length({{0}}::text) <= {LARGEST_VALUE} THEN {{0}} ELSE jsonb_build_object(
        'sha256', encode(sha256(convert_to({{0}} #>> '{{{{}}}}', 'UTF8')), 'hex'),
        'bytes', octet_length({{0}} #>> '{{{{}}}}')) END
"""
# 16 random bytes, of which a UUID fixes six bits.
_SALT = "uuid_send(gen_random_uuid())"
_COMMITMENT = "jsonb_build_object('$c', encode(sha256({0} || convert_to({1}::text, 'UTF8')), 'hex'))"
_CHANGES = """(
    WITH pairs AS (
        SELECT n.key, {old} AS was, {new} AS is_now, n.key = ANY({personal}) AS personal
        FROM jsonb_each(to_jsonb(new)) n JOIN jsonb_each(to_jsonb(old)) o USING (key)
        WHERE o.value IS DISTINCT FROM n.value AND n.key = ANY({shown})),
    told AS (
        SELECT key, side, personal AND value <> 'null' AS hidden, value, {salt} AS salt FROM pairs
        CROSS JOIN LATERAL (VALUES ('old', was), ('new', is_now)) AS sides (side, value)),
    columns AS (
        SELECT key, jsonb_object_agg(side, CASE WHEN hidden THEN {commitment} ELSE {short} END) AS change
        FROM told GROUP BY key),
    whole AS (SELECT jsonb_object_agg(key, change) AS changes FROM columns),
    opened AS (
        SELECT jsonb_agg(jsonb_build_object('path', '/changes/' || key || '/' || side,
            'salt', encode(salt, 'base64'), 'value', value)) AS openings
        FROM told WHERE hidden AND octet_length(value::text) <= {longest})
    SELECT jsonb_build_object('changes', CASE WHEN octet_length(changes::text) <= {largest} THEN changes
            ELSE jsonb_build_object('sha256', encode(sha256(convert_to(changes::text, 'UTF8')), 'hex')) END)
        || CASE WHEN openings IS NULL OR octet_length(changes::text) > {largest} THEN '{{}}'
            ELSE jsonb_build_object('{name}', openings) END
    FROM whole, opened WHERE changes IS NOT NULL)
"""
_NOTHING: ColumnClause[Any] = literal_column("'{}'::jsonb")


class Change:
    """An UPDATE … RETURNING of a table with an `id`, compiled together with the event that it records."""

    def __init__(
        self,
        statement: Update,
        *,
        kind: str,
        key: str = "id",
        secret: Iterable[str] = (),
        personal: Iterable[str] = (),
        quiet: Iterable[str] = QUIET,
    ) -> None:
        table = statement.table
        known = {column.name for column in table.c}
        named = {key, *secret, *personal}
        if unknown := named - known:
            raise ValueError(f"{kind} has no column {', '.join(sorted(unknown))}")
        data = {column.name for column in table.c if isinstance(column.type, LargeBinary)}
        told = literal_column(_changes(known - {*secret, *quiet, *data}, set(personal)), JSONB).label("told")
        changed = statement.returning(told).cte("changed")
        event = select(
            *(cast(bindparam(f"event_{name}"), outbox.outbox.c[name].type) for name in _EVENT),
            literal_column(f"'{kind}:'") + cast(changed.c[key], Text),
            cast(bindparam("event_payload"), JSONB).op("||")(func.coalesce(changed.c.told, _NOTHING)),
        )
        recorded = insert(outbox.outbox).from_select([*_EVENT, "entity", "payload"], event).cte("recorded")
        self._kind = kind
        kept = [column for column in changed.c if column.name != "told"]
        self._statement = Statement(select(*kept).add_cte(recorded))

    async def one(
        self,
        tx: Transaction,
        details: Message | Mapping[str, Any] | None = None,
        *,
        action: str | None = None,
        actor: tuple[str, str] | None = None,
        **values: Any,
    ) -> Row | None:
        """Change the row and record it; give it as it is now, or None when none matched and nothing was recorded."""
        event = outbox.compose(tx.tenant_id, self._kind, details, action=action, actor=actor)
        given = {f"event_{name}": value for name, value in event.items() if name != "entity"}
        row = await tx.one(self._statement, **given, **values)
        if row is not None:
            tx.on_commit(tx.database.wake)
        return row

    async def only(
        self,
        tx: Transaction,
        details: Message | Mapping[str, Any] | None = None,
        *,
        action: str | None = None,
        actor: tuple[str, str] | None = None,
        **values: Any,
    ) -> Row:
        """Change a row that is there."""
        row = await self.one(tx, details, action=action, actor=actor, **values)
        if row is None:
            raise RuntimeError(f"the {self._kind} that was to be changed is not there")
        return row


def _changes(shown: set[str], personal: set[str]) -> str:
    """Give the expression of RETURNING that describes the change of a row; NULL when nothing told has changed."""
    return _CHANGES.format(
        old=_VALUE.format("o.value"),
        new=_VALUE.format("n.value"),
        shown=_array(shown),
        personal=_array(personal),
        salt=_SALT,
        commitment=_COMMITMENT.format("salt", "value"),
        short=_SHORT.format("value"),
        largest=LARGEST,
        longest=LARGEST_VALUE,
        name=outbox.OPENINGS,
    )


def _array(names: Iterable[str]) -> str:
    """Write names of columns, which come from code, as an array of SQL."""
    quoted = ", ".join(f"'{name}'" for name in sorted(names))
    return f"ARRAY[{quoted}]::text[]"
