"""Builds what is made from the protos: generated Python, checks, and the contract as one descriptor set.

    python protos/make.py generate   writes *_pb2.py, *_pb2.pyi, *_pb2_grpc.py, *_pb2_grpc.pyi beside each proto,
                                     and the scopes that agents can have, services/auth/scopes.txt
    python protos/make.py check      lint, breaking changes, generated code fresh
    python protos/make.py image      writes build/triptych.binpb: self-contained, with comments
    python protos/make.py release    keeps today's contract as the one that `check` compares with

`buf/validate/validate.proto` is not in this repository: its descriptor comes from the installed protovalidate.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb  # type: ignore[attr-defined]

PROTOS = Path(__file__).resolve().parent
IMAGE = PROTOS.parent / "build" / "triptych.binpb"
RELEASED = PROTOS / "released.binpb"
SCRIPTS = Path(sys.executable).parent
SCOPES = PROTOS.parent / "services" / "auth" / "scopes.txt"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def sources() -> list[str]:
    """Every proto of ours, relative to the import root."""
    return sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "triptych").rglob("*.proto"))


def compile_protos(names: list[str], *options: str) -> None:
    """Run protoc over these sources; validate.proto is served from protovalidate's descriptor."""
    with tempfile.TemporaryDirectory() as folder:
        borrowed = Path(folder) / "validate.binpb"
        files = descriptor_pb2.FileDescriptorSet()
        for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
            module.DESCRIPTOR.CopyToProto(files.file.add())
        files.file.add().ParseFromString(validate_pb._DESC.proto.to_binary())  # noqa: SLF001
        borrowed.write_bytes(files.SerializeToString())
        well_known = Path(grpc_tools.__file__).parent / "_proto"
        arguments = [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={well_known}",
            f"--descriptor_set_in={borrowed}",
            *options,
            *names,
        ]
        if protoc.main(arguments) != 0:
            sys.exit("protoc failed; its messages are above")


def generate(folder: Path = PROTOS) -> None:
    """Write the Python modules and their types below `folder`."""
    compile_protos(
        sources(),
        f"--plugin=protoc-gen-mypy={SCRIPTS / 'protoc-gen-mypy'}",
        f"--python_out={folder}",
        f"--mypy_out=quiet:{folder}",
    )
    compile_protos(
        [name for name in sources() if name.endswith("_service.proto")],
        f"--plugin=protoc-gen-mypy_grpc={SCRIPTS / 'protoc-gen-mypy_grpc'}",
        f"--grpc_python_out={folder}",
        f"--mypy_grpc_out=quiet:{folder}",
    )


def scopes() -> str:
    """Permissions that agents can be given: those of the methods that agents may call, one a line."""
    from triptych.common.v1 import options_pb2  # noqa: PLC0415 - it may just have been generated

    image()
    files = descriptor_pb2.FileDescriptorSet.FromString(IMAGE.read_bytes())
    methods = (method for file in files.file for service in file.service for method in service.method)
    rules = (method.options.Extensions[options_pb2.access] for method in methods)
    return "".join(f"{name}\n" for name in sorted({rule.permission for rule in rules if "agent" in rule.audience}))


def image(path: Path = IMAGE) -> None:
    """Write the contract as a descriptor set with its imports and comments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compile_protos(sources(), f"--descriptor_set_out={path}", "--include_imports", "--include_source_info")


def stale() -> list[str]:
    """Generated files that differ from what the protos give now, or are missing, or have no proto any more."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = {str(p.relative_to(folder)): p.read_bytes() for g in GENERATED for p in Path(folder).rglob(g)}
    kept = {str(p.relative_to(PROTOS)): p.read_bytes() for g in GENERATED for p in (PROTOS / "triptych").rglob(g)}
    return sorted(name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name))


def buf(*arguments: str) -> None:
    """Run buf and stop at its first complaint."""
    if subprocess.run([SCRIPTS / "buf", *arguments], cwd=PROTOS, check=False).returncode != 0:  # noqa: S603
        sys.exit(f"buf {arguments[0]} found problems; they are above")


def check() -> None:
    """Lint, compare with the released contract, and see that the generated code is fresh."""
    image()
    buf("lint", f"{IMAGE}", "--config", "buf.yaml")
    buf("breaking", f"{IMAGE}", "--against", f"{RELEASED}", "--config", "buf.yaml")
    if (old := stale()) or SCOPES.read_text() != scopes():
        old = old or [SCOPES.name]
        sys.exit("run `make protos`; not what the protos give: " + ", ".join(old))


def main() -> None:
    """Run the command that is named."""

    def everything() -> None:
        generate()
        SCOPES.write_text(scopes())

    commands = {"generate": everything, "image": image, "check": check, "release": lambda: image(RELEASED)}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()


if __name__ == "__main__":
    main()
