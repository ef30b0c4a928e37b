"""Lists page, updates have a mask, secrets are marked, money is no float."""

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from tests.contracts import protos
from triptych.common.v1 import options_pb2

LISTS = [
    pytest.param(method, id=method.full_name.removeprefix("triptych."))
    for method in protos.methods()
    if method.name.startswith("List")
]
UPDATES = [
    pytest.param(method, id=method.full_name.removeprefix("triptych."))
    for method in protos.methods()
    if method.name.startswith("Update")
]
SECRET = {"password", "api_key", "access_token", "refresh_token", "code", "invitation_code"}
NO_SECRET = {"triptych.projects.v1.PolicyDenial.code"}


@pytest.mark.parametrize("method", LISTS)
def test_a_list_pages_as_aip_158_says(method: MethodDescriptor) -> None:
    request, response = method.input_type, method.output_type
    assert {"page_size", "page_token"} <= set(request.fields_by_name)
    first = response.fields_by_number[1]
    assert first.is_repeated
    assert first.message_type is not None
    assert "next_page_token" in response.fields_by_name


@pytest.mark.parametrize("method", UPDATES)
def test_an_update_has_a_mask_and_its_resource_an_etag(method: MethodDescriptor) -> None:
    mask = method.input_type.fields_by_name["update_mask"].message_type
    resource = method.input_type.fields_by_number[1].message_type
    assert mask is not None
    assert resource is not None
    assert mask.full_name == "google.protobuf.FieldMask"
    assert "etag" in resource.fields_by_name


def test_every_secret_is_marked_and_nothing_else_of_its_name_is_forgotten() -> None:
    for field in protos.fields():
        if field.name in SECRET and field.full_name not in NO_SECRET:
            assert field.GetOptions().Extensions[options_pb2.sensitive], field.full_name


def test_money_is_never_a_float() -> None:
    floats = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}
    money = [field for field in protos.fields() if "usd" in field.name]
    assert money
    assert [field.full_name for field in money if field.type in floats] == []
