"""A fault is the same at both ends."""

from datetime import timedelta

import grpc
import pytest

from services.kit import faults

DETAILS = "grpc-status-details-bin"


class SpoonBent(faults.FailedPrecondition):
    """There is no spoon."""


def sent(fault: faults.Fault) -> grpc.aio.AioRpcError:
    """Give what the caller's library makes of it."""
    status = fault.status()
    trailing = grpc.aio.Metadata((DETAILS, status.SerializeToString()))
    return grpc.aio.AioRpcError(fault.code, grpc.aio.Metadata(), trailing, details=status.message)


def test_the_reason_is_the_name_of_the_class() -> None:
    assert SpoonBent.reason == "SPOON_BENT"
    assert faults.RequestInvalid.reason == "REQUEST_INVALID"


@pytest.mark.parametrize("kind", list(faults._BY_CODE.values()), ids=lambda kind: kind.__name__)
def test_every_status_survives_the_wire(kind: type[faults.Fault]) -> None:
    fault = kind("text", violations={"field": "is wrong"}, retry_after=timedelta(seconds=7), project_id="p", n=3)
    back = faults.from_error(sent(fault), service="peer")
    assert (type(back), back.text, back.facts) == (kind, "text", {"project_id": "p", "n": "3"})
    assert (back.violations, back.retry_after) == ({"field": "is wrong"}, timedelta(seconds=7))


def test_a_named_fault_keeps_its_reason() -> None:
    back = faults.from_error(sent(SpoonBent("no spoon")), service="peer")
    assert (back.reason, back.code) == ("SPOON_BENT", grpc.StatusCode.FAILED_PRECONDITION)


def test_a_neighbours_defect_is_not_ours() -> None:
    back = faults.from_error(sent(faults.Internal("boom")), service="projects")
    assert isinstance(back, faults.DependencyUnavailable)
    assert "boom" not in back.text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, faults.DependencyUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, faults.DeadlineTooShort),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, faults.ServerBusy),
        (grpc.StatusCode.UNKNOWN, faults.DependencyUnavailable),
    ],
)
def test_what_grpc_itself_says_becomes_a_fault(code: grpc.StatusCode, kind: type[faults.Fault]) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="socket 10.0.0.7 closed")
    back = faults.from_error(error, service="projects")
    assert type(back) is kind
    assert "10.0.0.7" not in back.text
