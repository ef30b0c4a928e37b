"""The topology, and the files that have to agree with it."""

import re
from pathlib import Path

import pytest

from services.cli.stack import topology, vaults
from services.cli.stack.faults import StackFault


def test_ports_are_distinct() -> None:
    ports = [
        port for service in topology.read().services for port in (service.port, service.plaintext, service.metrics)
    ]
    assert len(set(ports)) == len(ports)


def test_needs_name_services_and_servers() -> None:
    plan = topology.read()
    known = {service.name for service in plan.services} | {"postgres", "valkey", "openbao"}
    for service in plan.services:
        assert set(service.needs) <= known - {service.name}


def test_needs_are_the_neighbours_that_a_service_calls() -> None:
    plan, servers = topology.read(), {"postgres", "valkey", "openbao"}
    sources = Path(topology.__file__).parents[3]
    for service in plan.services:
        files = (sources / service.module.replace(".", "/")).rglob("*.py")
        called = {name for file in files for name in re.findall(r'\.stub\(\s*"(\w+)"', file.read_text())}
        everybodys = {"auth", "audit"}  # the kit's calls: signing keys and revocations, events
        assert set(service.needs) - servers == (called | everybodys) - {service.name}, service.name


def test_every_service_seals_its_page_tokens() -> None:
    for service in topology.read().services:
        assert f"{service.name}-paging" in [key.name for key in service.transit]


def test_unknown_service_is_a_clear_error() -> None:
    with pytest.raises(StackFault, match="no service is called 'billing'; there are auth, "):
        topology.read().service("billing")


def test_roles_sql_names_every_schema() -> None:
    text = (topology.deploy() / "postgres" / "roles.sql").read_text()
    arrays = re.findall(r"schemas constant text\[\] := ARRAY\[(.*?)\]", text)
    expected = sorted(service.schema for service in topology.read().services)
    assert [sorted(re.findall(r"'(\w+)'", array)) for array in arrays] == [expected, expected]


def test_every_policy_has_an_identity_and_names_own_keys_only() -> None:
    plan = topology.read()
    policies = topology.deploy() / "vault" / "policies"
    assert {path.stem for path in policies.glob("*.hcl")} == set(vaults.identities(plan))
    for service in plan.services:
        keys = {key.name for key in service.transit}
        text = (policies / f"{service.name}.hcl").read_text()
        assert set(re.findall(r'path "transit/.*/([\w-]+)"', text)) == keys
        assert re.findall(r'path "pki/(.*)"', text) == [f"issue/{service.name}"]
        assert "*" not in text
