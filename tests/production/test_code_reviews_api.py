"""CodeReviewService over the wire."""

import uuid
from typing import Any

import pytest

from services.kit import faults
from tests.production.builders import Site, spec
from tests.suite import Suite
from triptych.common.v1.role_pb2 import Role
from triptych.production.v1 import analysis_service_pb2, code_review_service_pb2 as pb
from triptych.production.v1.code_review_pb2 import CodeLanguage, CodeReview
from triptych.production.v1.code_review_service_pb2_grpc import CodeReviewServiceStub


def review(analysis_id: str, **fields: Any) -> CodeReview:
    usual: dict[str, Any] = {
        "analysis_id": analysis_id,
        "language": CodeLanguage.CODE_LANGUAGE_PYTHON,
        "code_length": 1200,
        "overall_score": 72.5,
        "vulnerabilities_count": 1,
        "issues_count": 4,
        "model_used": "bandit 1.9",
        "analysis_time_ms": 80,
    }
    return CodeReview(**usual | fields)


async def record(site: Site, given: CodeReview, request_id: str = "") -> CodeReview:
    request = pb.RecordCodeReviewRequest(code_review=given, request_id=request_id)
    return (await site.stub(CodeReviewServiceStub).RecordCodeReview(request)).code_review


async def running(site: Site) -> str:
    """Give the id of an analysis that runs."""
    analysis = await site.create(spec(), spec())
    await site.lease(analysis.id)
    return analysis.id


async def test_a_review_is_recorded_and_listed_newest_first(site: Site) -> None:
    analysis_id = await running(site)
    first = await record(site, review(analysis_id))
    assert (first.overall_score, first.issues_count, first.vulnerabilities_count) == (72.5, 4, 1)
    second = await record(site, review(await running(site)))
    viewer = site.user.colleague(Role.ROLE_VIEWER).stub(CodeReviewServiceStub)
    assert list((await viewer.ListCodeReviews(pb.ListCodeReviewsRequest())).code_reviews) == [second, first]
    of_one = pb.ListCodeReviewsRequest(analysis_id=analysis_id)
    assert list((await viewer.ListCodeReviews(of_one)).code_reviews) == [first]
    page = await viewer.ListCodeReviews(pb.ListCodeReviewsRequest(page_size=1))
    rest = pb.ListCodeReviewsRequest(page_size=1, page_token=page.next_page_token)
    assert list((await viewer.ListCodeReviews(rest)).code_reviews) == [first]
    assert await site.events(f"code_review:{first.id}") == ["production.code_review.record"]


@pytest.mark.parametrize(("given", "kept"), [(99.995, 100.0), (0.005, 0.01), (33.333, 33.33), (100, 100), (0, 0)])
async def test_a_score_keeps_two_digits(site: Site, given: float, kept: float) -> None:
    assert (await record(site, review(await running(site), overall_score=given))).overall_score == kept


async def test_the_same_request_id_records_one_review(site: Site) -> None:
    given, request_id = review(await running(site)), str(uuid.uuid4())
    assert await record(site, given, request_id) == await record(site, given, request_id)


async def test_only_a_running_analysis_takes_reviews(site: Site) -> None:
    waiting = await site.create()
    stopped = await running(site)
    cancel = analysis_service_pb2.CancelAnalysisRequest(analysis_id=stopped, reason="enough")
    await site.analyses.CancelAnalysis(cancel)
    for analysis_id, state in ((waiting.id, "queued"), (stopped, "cancelled")):
        with pytest.raises(faults.FailedPrecondition) as caught:
            await record(site, review(analysis_id))
        assert (caught.value.reason, caught.value.facts) == ("ANALYSIS_STATE_CONFLICT", {"state": state})


async def test_issues_include_vulnerabilities(site: Site) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await record(site, review(await running(site), vulnerabilities_count=5))
    assert caught.value.violations.keys() == {"code_review.issues_count"}


@pytest.mark.parametrize(
    "fields", [{"overall_score": 100.01}, {"language": 0}, {"model_used": ""}, {"code_length": -1}]
)
async def test_a_review_out_of_shape_is_refused(site: Site, fields: dict[str, Any]) -> None:
    with pytest.raises(faults.InvalidArgument) as caught:
        await record(site, review(str(uuid.uuid4()), **fields))
    assert caught.value.reason == "REQUEST_INVALID"


async def test_another_tenants_analysis_takes_no_review(site: Site, suite: Suite) -> None:
    analysis_id = await running(site)
    await record(site, review(analysis_id))
    stranger = Site(suite, suite.person(Role.ROLE_ADMIN), site.project_id)
    with pytest.raises(faults.NotFound) as caught:
        await record(stranger, review(analysis_id))
    assert caught.value.reason == "ANALYSIS_NOT_FOUND"
    listed = await stranger.stub(CodeReviewServiceStub).ListCodeReviews(pb.ListCodeReviewsRequest())
    assert not listed.code_reviews


async def test_a_viewer_records_nothing(site: Site) -> None:
    viewer = Site(site.suite, site.user.colleague(Role.ROLE_VIEWER), site.project_id)
    with pytest.raises(faults.PermissionDenied):
        await record(viewer, review(str(uuid.uuid4())))
