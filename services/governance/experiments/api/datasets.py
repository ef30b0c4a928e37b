"""The RPCs of DatasetService."""

from services.governance.experiments import datasets
from services.kit import requests
from services.kit.db import Database
from services.kit.paging import Pages
from triptych.experiments.v1 import dataset_service_pb2 as pb, dataset_service_pb2_grpc


class Datasets(dataset_service_pb2_grpc.DatasetServiceServicer):
    """Datasets of the caller's tenant."""

    def __init__(self, *, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: object) -> pb.CreateDatasetResponse:
        async with self._db.begin() as tx:
            return await requests.once(tx, request, datasets.create)

    async def GetDataset(self, request: pb.GetDatasetRequest, context: object) -> pb.GetDatasetResponse:
        async with self._db.begin() as tx:
            return pb.GetDatasetResponse(dataset=await datasets.get(tx, request.dataset_id))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: object) -> pb.ListDatasetsResponse:
        async with self._db.begin() as tx:
            return await datasets.page(tx, self._pages.begin(request))

    async def ListDatasetItems(
        self, request: pb.ListDatasetItemsRequest, context: object
    ) -> pb.ListDatasetItemsResponse:
        async with self._db.begin() as tx:
            return await datasets.page_items(tx, request, self._pages.begin(request))
