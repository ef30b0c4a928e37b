"""Attempts: whether a sealed record may be tried again, and which try it is. The database holds the same limits."""

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Boolean, Column, MetaData, Table, Text, Uuid, func, select

from services.governance.quarantine import dispositions, quarantine_requests
from services.governance.quarantine.quarantine_requests import QuarantineStateConflict
from services.kit.db import Row, Statement, Transaction, param
from services.kit.faults import AlreadyExists, FailedPrecondition
from triptych.quarantine.v1.quarantine_pb2 import QuarantineRequestState

MOST = 5

_tried = Table(
    "reevaluation_requests",
    MetaData(),
    Column("record_id", Uuid),
    Column("state", Text),
    Column("review_pending", Boolean),
)
_open_state = (_tried.c.state == "pending") | (_tried.c.state == "approved") | _tried.c.review_pending
_facts = Statement(
    select(
        func.clock_timestamp().label("now"),
        func.count().filter(_tried.c.state != "rejected").label("attempts"),
        func.count().filter(_open_state).label("open"),
    ).where(_tried.c.record_id == param("record_id"))
)


class ReevaluationOpen(AlreadyExists):
    """A re-evaluation of this record waits, goes on, or is just being ended."""


class QuarantinePermanent(FailedPrecondition):
    """The record is never re-evaluated."""


class CoolDownRunning(FailedPrecondition):
    """It is too early to ask."""


class AttemptsExhausted(FailedPrecondition):
    """The record was re-evaluated as often as it may be."""


def _open() -> ReevaluationOpen:
    return ReevaluationOpen("a re-evaluation of this record is open already; end that one first")


def _exhausted() -> AttemptsExhausted:
    return AttemptsExhausted(f"the record was re-evaluated {MOST} times already and stays where it is")


CONSTRAINTS = {
    "reevaluation_requests_open": _open,
    "reevaluation_requests_attempt": _open,
    "reevaluation_requests_attempts": _exhausted,
}


async def following(tx: Transaction, record: Row) -> int:
    """Give the number of the record's next try, or say why there is none now."""
    facts = await tx.only(_facts, record_id=record["id"])
    await _check_record(tx, record)
    if facts["now"] < record["cool_down_end_time"]:
        until = Timestamp()
        until.FromDatetime(record["cool_down_end_time"])
        raise CoolDownRunning(
            f"the cool-down of this record runs until {until.ToJsonString()}; ask then",
            retry_after=record["cool_down_end_time"] - facts["now"],
            until=until.ToJsonString(),
        )
    if facts["open"]:
        raise _open()
    if facts["attempts"] >= MOST:
        raise _exhausted()
    return int(facts["attempts"]) + 1


async def _check_record(tx: Transaction, record: Row) -> None:
    """Raise unless the record is one that a re-evaluation could still release."""
    if record["permanent"]:
        raise QuarantinePermanent("this record is permanent and is never re-evaluated", record_id=str(record["id"]))
    if record["disposition"] == dispositions.APPROVED_RETRY:
        raise QuarantineStateConflict(
            "this record was released; its configuration may be tried without a re-evaluation",
            state=record["disposition"],
        )
    request = await quarantine_requests.get(tx, str(record["request_id"]))
    if request.state != QuarantineRequestState.QUARANTINE_REQUEST_STATE_COMPLETED:
        raise QuarantineStateConflict(
            "the hash of this record is still being blocked; ask again when its request is completed", state="approved"
        )
