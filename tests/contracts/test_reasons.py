"""Every fault that a service raises stands in its context's `enum Reason`, with its status; and the other way round."""

import importlib
import pkgutil
import re
from functools import cache

import pytest
from google.protobuf import descriptor_pool

from services.cli.stack import topology
from services.kit import faults
from tests.contracts.protos import PROTOS

CONTEXTS = [service.name for service in topology.read().services]


@cache
def declared(package: str) -> dict[str, str]:
    """Reasons of a package's enum and the status that their comments begin with."""
    text = (PROTOS / "triptych" / package / "v1" / "reason.proto").read_text()
    found = re.findall(r"((?:  //[^\n]*\n)+)  REASON_(\w+) = \d+;", text)
    return {name: comment.strip("/ ").split(":")[0] for comment, name in found if name != "UNSPECIFIED"}


def raised(module: str) -> dict[str, type[faults.Fault]]:
    """Faults declared anywhere in a package."""
    package = importlib.import_module(module)
    names = [module, *(m.name for m in pkgutil.walk_packages(package.__path__, module + ".") if usable(m.name))]
    classes = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return {
        cls.reason: cls
        for cls in classes
        if isinstance(cls, type) and issubclass(cls, faults.Fault) and cls.__module__.startswith(module)
    }


def usable(name: str) -> bool:
    """Programs and migrations are not imported."""
    return not re.search(r"__main__|migrations\.|\.zygote|\.versions\.", name)


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_fault_is_documented_with_its_status(context: str) -> None:
    reasons = declared(context)
    for reason, cls in raised(topology.read().service(context).module).items():
        assert reasons.get(reason) == cls.code.name, f"{cls.__qualname__}: {reason}"


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_documented_reason_can_be_raised(context: str) -> None:
    assert declared(context).keys() <= raised(topology.read().service(context).module).keys()


def test_the_kits_faults_are_documented_in_common() -> None:
    abstract = {cls.reason for cls in faults._BY_CODE.values()} | {"FAULT"}
    kit = {reason: cls for reason, cls in raised("services.kit").items() if reason not in abstract}
    assert {reason: cls.code.name for reason, cls in kit.items()} == declared("common")


def test_every_enum_reason_is_in_its_package() -> None:
    for context in [*CONTEXTS, "common"]:
        enum = descriptor_pool.Default().FindEnumTypeByName(f"triptych.{context}.v1.Reason")
        assert {value.name for value in enum.values} == {
            f"REASON_{name}" for name in [*declared(context), "UNSPECIFIED"]
        }
