"""Results of code reviews: the row, its wire form, its queries. Written while the analysis runs, never changed."""

from decimal import ROUND_HALF_UP, Decimal

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
)

from services.governance.production import analyses
from services.kit import outbox
from services.kit.db import Row, Statement, Transaction, params
from services.kit.faults import RequestInvalid
from services.kit.paging import Page
from services.kit.words import Words
from triptych.production.v1 import code_review_pb2, code_review_service_pb2 as pb

LANGUAGES = Words(code_review_pb2.CodeLanguage)
HUNDREDTH = Decimal("0.01")

table = Table(
    "code_review_results",
    MetaData(),
    Column("id", Uuid, primary_key=True, server_default=func.uuidv7()),
    Column("tenant_id", Uuid, nullable=False),
    Column("analysis_id", Uuid, nullable=False),
    Column("code_language", Text, nullable=False),
    Column("code_length", BigInteger, nullable=False),
    Column("overall_score", Numeric(5, 2), nullable=False),
    Column("vulnerabilities_count", Integer, nullable=False),
    Column("issues_count", Integer, nullable=False),
    Column("model_used", Text, nullable=False),
    Column("analysis_time_ms", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
_insert = Statement(
    insert(table)
    .values(
        **params(
            "tenant_id analysis_id code_language code_length overall_score"
            " vulnerabilities_count issues_count model_used analysis_time_ms"
        )
    )
    .returning(*table.c)
)


def _too_few_issues() -> RequestInvalid:
    field, text = "code_review.issues_count", "counts all findings, so it is at least vulnerabilities_count"
    return RequestInvalid(f"{field}: {text}", violations={field: text}, fields=field)


CONSTRAINTS = {"code_review_results_issues": _too_few_issues}


async def record(tx: Transaction, request: pb.RecordCodeReviewRequest) -> pb.RecordCodeReviewResponse:
    """Store a result."""
    given = request.code_review
    await analyses.hold_running(tx, given.analysis_id)
    row = await tx.only(
        _insert,
        tenant_id=tx.tenant_id,
        analysis_id=given.analysis_id,
        code_language=LANGUAGES.word(given.language),
        code_length=given.code_length,
        overall_score=Decimal(repr(given.overall_score)).quantize(HUNDREDTH, ROUND_HALF_UP),
        vulnerabilities_count=given.vulnerabilities_count,
        issues_count=given.issues_count,
        model_used=given.model_used,
        analysis_time_ms=given.analysis_time_ms,
    )
    review = _wire(row)
    await outbox.record(tx, f"code_review:{review.id}", review)
    return pb.RecordCodeReviewResponse(code_review=review)


async def page(tx: Transaction, request: pb.ListCodeReviewsRequest, page: Page) -> pb.ListCodeReviewsResponse:
    """Give one page, newest first."""
    query = select(table).order_by(table.c.id.desc()).limit(page.limit)
    if request.analysis_id:
        query = query.where(table.c.analysis_id == request.analysis_id)
    if page.after is not None:
        query = query.where(table.c.id < page.after[0])
    rows, token = page.end(await tx.all(query), key=lambda row: (row["id"],))
    return pb.ListCodeReviewsResponse(code_reviews=[_wire(row) for row in rows], next_page_token=token)


def _wire(row: Row) -> code_review_pb2.CodeReview:
    return code_review_pb2.CodeReview(
        id=str(row["id"]),
        analysis_id=str(row["analysis_id"]),
        language=LANGUAGES.number(row["code_language"]),
        code_length=row["code_length"],
        overall_score=float(row["overall_score"]),
        vulnerabilities_count=row["vulnerabilities_count"],
        issues_count=row["issues_count"],
        model_used=row["model_used"],
        analysis_time_ms=row["analysis_time_ms"],
        create_time=row["create_time"],
    )
