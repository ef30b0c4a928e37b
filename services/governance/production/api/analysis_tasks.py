"""The RPCs of AnalysisTaskService."""

from services.governance.production import leases, tasks
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.production.v1 import analysis_task_service_pb2 as pb, analysis_task_service_pb2_grpc


class AnalysisTasks(analysis_task_service_pb2_grpc.AnalysisTaskServiceServicer):
    """Tasks of the caller's tenant, and their leases."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def LeaseTasks(self, request: pb.LeaseTasksRequest, context: object) -> pb.LeaseTasksResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, leases.take)

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: object) -> pb.RenewLeaseResponse:
        async with self._db.begin() as tx:
            return await leases.renew(tx, request)

    async def CompleteTask(self, request: pb.CompleteTaskRequest, context: object) -> pb.CompleteTaskResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, leases.complete)

    async def FailTask(self, request: pb.FailTaskRequest, context: object) -> pb.FailTaskResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, leases.fail)

    async def ListTasks(self, request: pb.ListTasksRequest, context: object) -> pb.ListTasksResponse:
        async with self._db.begin() as tx:
            return await tasks.page(tx, request, self._pages.begin(request))
