"""The contract as one file: complete, commented, lint-clean, and guarded against breaking changes."""

import subprocess
import sys
from pathlib import Path

import protovalidate
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from tests.contracts import protos
from tests.contracts.protos import PROTOS, ROOT
from tests.patience import SECONDS

SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contract, built for this test."""
    path = tmp_path_factory.mktemp("image") / "triptych.binpb"
    code = f"import sys, pathlib; sys.path.insert(0, 'protos'); import make; make.image(pathlib.Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=SECONDS)
    return path


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / "buf"), *arguments, "--config", "buf.yaml"]
    return subprocess.run(command, cwd=PROTOS, capture_output=True, text=True, check=False, timeout=SECONDS)


def test_the_image_is_self_contained_and_commented(image: Path) -> None:
    files = FileDescriptorSet.FromString(image.read_bytes())
    names = {file.name for file in files.file}
    assert {dependency for file in files.file for dependency in file.dependency} <= names
    assert "buf/validate/validate.proto" in names
    ours = next(file for file in files.file if file.name == "triptych/projects/v1/project_service.proto")
    assert any("Creates a project" in location.leading_comments for location in ours.source_code_info.location)


def test_buf_lint_finds_nothing(image: Path) -> None:
    found = buf("lint", str(image))
    assert (found.returncode, found.stdout) == (0, "")


def test_buf_lint_finds_a_missing_comment(image: Path, tmp_path: Path) -> None:
    files = FileDescriptorSet.FromString(image.read_bytes())
    for file in files.file:
        if file.name == "triptych/projects/v1/project.proto":
            for location in file.source_code_info.location:
                location.ClearField("leading_comments")
    bare = tmp_path / "bare.binpb"
    bare.write_bytes(files.SerializeToString())
    assert "comment" in buf("lint", str(bare)).stdout


def test_the_contract_breaks_nothing_that_was_released(image: Path) -> None:
    found = buf("breaking", str(image), "--against", str(PROTOS / "released.binpb"))
    assert (found.returncode, found.stdout) == (0, "")


def test_a_removed_field_is_found(image: Path, tmp_path: Path) -> None:
    files = FileDescriptorSet.FromString(image.read_bytes())
    project = next(file for file in files.file if file.name == "triptych/projects/v1/project.proto")
    del project.message_type[0].field[2]
    project.ClearField("source_code_info")
    broken = tmp_path / "broken.binpb"
    broken.write_bytes(files.SerializeToString())
    assert "field" in buf("breaking", str(broken), "--against", str(image)).stdout


def test_generated_code_is_what_the_protos_give() -> None:
    code = "import sys; sys.path.insert(0, 'protos'); import make; sys.exit(', '.join(make.stale()) or 0)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=SECONDS)


def test_validate_proto_comes_from_the_installed_protovalidate() -> None:
    protos.files()
    assert not list(PROTOS.rglob("validate.proto"))
    message = descriptor_pool.Default().FindMessageTypeByName("triptych.projects.v1.GetProjectRequest")
    request = GetMessageClass(message)()
    found = protovalidate.Validator().collect_violations(request)
    assert [violation.proto.rule_id for violation in found] == ["string.uuid_empty"]
