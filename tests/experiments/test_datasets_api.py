"""DatasetService over the wire."""

import hashlib
import uuid

import pytest

from services.kit import faults
from tests.suite import Person, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.experiments.v1 import dataset_service_pb2 as pb
from triptych.experiments.v1.dataset_pb2 import Dataset, DatasetItem
from triptych.experiments.v1.dataset_service_pb2_grpc import DatasetServiceStub


@pytest.fixture
async def admin(suite: Suite) -> Person:
    await suite.start("experiments")
    return suite.person(Role.ROLE_ADMIN)


def items(count: int, label: str = "weak") -> list[DatasetItem]:
    return [
        DatasetItem(item_id=f"p{n:05}", content_sha256=hashlib.sha256(str(n).encode()).hexdigest(), label=label)
        for n in range(count)
    ]


async def test_a_dataset_can_be_read_with_its_items(admin: Person) -> None:
    datasets = admin.stub(DatasetServiceStub)
    request = pb.CreateDatasetRequest(dataset=Dataset(name="corpus"), items=list(reversed(items(5))))
    created = (await datasets.CreateDataset(request)).dataset
    assert (created.item_count, created.created_by) == (5, admin.id)
    assert (await datasets.GetDataset(pb.GetDatasetRequest(dataset_id=created.id))).dataset == created
    first = await datasets.ListDatasetItems(pb.ListDatasetItemsRequest(dataset_id=created.id, page_size=3))
    request2 = pb.ListDatasetItemsRequest(dataset_id=created.id, page_size=3, page_token=first.next_page_token)
    second = await datasets.ListDatasetItems(request2)
    assert [*first.items, *second.items] == items(5)
    assert not second.next_page_token


async def test_the_digest_is_of_the_items_in_any_order_and_of_nothing_else(admin: Person) -> None:
    datasets = admin.stub(DatasetServiceStub)
    digests = [
        (await datasets.CreateDataset(pb.CreateDatasetRequest(dataset=Dataset(name=name), items=found))).dataset.digest
        for name, found in {
            "one": items(3), "two": list(reversed(items(3))), "three": items(4), "four": items(3, "clean"),
        }.items()
    ]  # fmt: skip
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


async def test_ten_thousand_items_fit(admin: Person) -> None:
    request = pb.CreateDatasetRequest(dataset=Dataset(name="large"), items=items(10_000))
    assert (await admin.stub(DatasetServiceStub).CreateDataset(request)).dataset.item_count == 10_000


async def test_two_items_of_one_id_are_refused_also_when_only_unicode_tells_them_apart(admin: Person) -> None:
    for one, two in (("p1", "p1"), ("\u00e9", "e\u0301")):
        found = [DatasetItem(item_id=name, content_sha256="a" * 64, label="weak") for name in (one, two)]
        with pytest.raises(faults.InvalidArgument) as caught:
            await admin.stub(DatasetServiceStub).CreateDataset(
                pb.CreateDatasetRequest(dataset=Dataset(name="twice"), items=found)
            )
        assert (caught.value.reason, caught.value.facts) == ("DATASET_ITEM_DUPLICATE", {"item_id": one})


async def test_a_name_is_taken_and_a_request_id_replays(admin: Person) -> None:
    datasets = admin.stub(DatasetServiceStub)
    request = pb.CreateDatasetRequest(dataset=Dataset(name="n"), items=items(1), request_id=str(uuid.uuid4()))
    first = await datasets.CreateDataset(request)
    assert await datasets.CreateDataset(request) == first
    request.request_id = ""
    with pytest.raises(faults.AlreadyExists) as caught:
        await datasets.CreateDataset(request)
    assert caught.value.reason == "DATASET_NAME_TAKEN"


async def test_another_tenants_dataset_looks_like_none(admin: Person, suite: Suite) -> None:
    request = pb.CreateDatasetRequest(dataset=Dataset(name="ours"), items=items(1))
    created = (await admin.stub(DatasetServiceStub).CreateDataset(request)).dataset
    stranger = suite.person(Role.ROLE_ADMIN).stub(DatasetServiceStub)
    for dataset_id in (created.id, str(uuid.uuid4())):
        with pytest.raises(faults.NotFound) as caught:
            await stranger.GetDataset(pb.GetDatasetRequest(dataset_id=dataset_id))
        assert caught.value.reason == "DATASET_NOT_FOUND"
        with pytest.raises(faults.NotFound):
            await stranger.ListDatasetItems(pb.ListDatasetItemsRequest(dataset_id=dataset_id))
    assert not (await stranger.ListDatasets(pb.ListDatasetsRequest())).datasets


async def test_the_zone_is_for_admins(admin: Person) -> None:
    with pytest.raises(faults.PermissionDenied):
        await admin.colleague(Role.ROLE_USER).stub(DatasetServiceStub).ListDatasets(pb.ListDatasetsRequest())
