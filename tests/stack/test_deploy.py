"""compose.yaml and the Dockerfile say the same as the topology. No container engine is needed to read them."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.cli.stack import topology, vaults
from services.cli.stack.backends import Backends
from services.cli.stack.topology import Service
from services.kit.settings import Settings

DEPLOY = topology.deploy()
PLAN = topology.read()
DEVELOPMENT_ONLY = {"TRIPTYCH_LISTEN_PLAINTEXT", "TRIPTYCH_ALLOW_LOOPBACK_ENDPOINTS"}
PRODUCTION_ONLY = {"auth": {"TRIPTYCH_SMTP_URL"}}
SERVERS = {"postgres", "valkey", "openbao"}
every_service = pytest.mark.parametrize("service", PLAN.services, ids=lambda service: service.name)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def test_the_parts_are_those_of_the_topology(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == SERVERS | {"provision", "migrate"} | {s.name for s in PLAN.services}


@every_service
def test_a_service_has_its_module_ports_and_needs(compose: dict[str, Any], service: Service) -> None:
    part = compose["services"][service.name]
    assert part["command"] == [service.module]
    assert part["ports"] == [f"127.0.0.1:{service.port}:{service.port}"]
    assert part["environment"]["TRIPTYCH_METRICS_LISTEN"] == f"0.0.0.0:{service.metrics}"
    servers = SERVERS & set(service.needs)
    assert part["depends_on"] == {
        "migrate": {"condition": "service_completed_successfully"},
        **{server: {"condition": "service_healthy"} for server in servers},
    }


@every_service
def test_a_service_gets_the_settings_of_triptych_up(
    compose: dict[str, Any], backends: Backends, service: Service
) -> None:
    environment = compose["services"][service.name]["environment"]
    embedded = backends.service_settings(service.name)
    expected = {f"TRIPTYCH_{key.upper()}" for key in embedded} - DEVELOPMENT_ONLY
    assert set(environment) == expected | PRODUCTION_ONLY.get(service.name, set())
    assert environment["TRIPTYCH_PROFILE"] == "production"
    assert environment["TRIPTYCH_DATABASE_URL"] == f"postgresql://{service.app}@postgres:5432/{PLAN.database}"
    neighbours = dict(pair.split("=") for pair in environment["TRIPTYCH_NEIGHBOURS"].split(","))
    assert neighbours == {s.name: f"dns:///{s.name}:{s.port}" for s in PLAN.services if s is not service}


@every_service
def test_a_service_starts_with_the_settings_of_compose(compose: dict[str, Any], service: Service) -> None:
    main = importlib.import_module(f"{service.module}.__main__")
    settings_type: type[Settings] = getattr(main, "SETTINGS", Settings)
    given = compose["services"][service.name]["environment"].items()
    environment = {name: re.sub(r"\$\{SMTP_URL.*\}", "smtp://mail", str(value)) for name, value in given}
    assert settings_type.load(environment).profile == "production"


@every_service
def test_a_service_is_confined(compose: dict[str, Any], service: Service) -> None:
    part = compose["services"][service.name]
    assert part["read_only"]
    assert part["cap_drop"] == ["ALL"]
    assert "user" not in part
    own = ["witness-audit:/witness"] if service.name == "audit" else []
    assert part["volumes"] == [f"secrets-{service.name}:/secrets:ro", f"data-{service.name}:/data", *own]
    assert part.get("secrets", []) == (["valkey"] if "valkey" in service.needs else [])


def test_everything_that_stays_has_a_health_check(compose: dict[str, Any]) -> None:
    for name, part in compose["services"].items():
        once = name in {"provision", "migrate"}
        assert part["healthcheck"].get("disable", False) is once, name
        assert part["restart"] == ("no" if once else "unless-stopped"), name


def test_volumes_and_secrets_are_declared(compose: dict[str, Any]) -> None:
    for part in compose["services"].values():
        named = {volume.partition(":")[0] for volume in part["volumes"] if not volume.startswith(".")}
        assert named <= set(compose["volumes"])
        assert set(part.get("secrets", [])) <= set(compose["secrets"])


def test_every_mounted_file_exists_and_provisioning_reaches_every_identity(compose: dict[str, Any]) -> None:
    mounted = {v for part in compose["services"].values() for v in part["volumes"] if v.startswith("./")}
    assert {volume.split(":")[0] for volume in mounted} == {
        "./deploy/postgres/roles.sql",
        "./deploy/vault/server.hcl",
        "./deploy/vault/policies",
    }
    for volume in mounted:
        assert (DEPLOY.parent / volume.split(":")[0]).exists()
    targets = {volume.rpartition(":")[2] for volume in compose["services"]["provision"]["volumes"]}
    assert {f"/secrets/{name}" for name in vaults.identities(PLAN)} <= targets


def test_the_image_is_pinned_and_not_roots() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert [stage.split("\n")[0] for stage in stages] == ["python:3.11-slim AS builder", "python:3.11-slim AS runtime"]
    assert "--require-hashes" in stages[0]
    assert "USER 10001:10001" in stages[1]
    assert "pip install" not in stages[1]
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        for name in source.split():
            assert Path(DEPLOY.parent / name).exists(), name
