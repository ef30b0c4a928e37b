"""buf.validate for generated code, from the descriptor that the installed protovalidate carries; no copy of the proto is kept.

`import "buf/validate/validate.proto"` in our protos becomes an import of this module.
"""

from google.protobuf import descriptor_pool
from google.protobuf.internal import builder
from protovalidate._gen.buf.validate import validate_pb

# These register what validate.proto imports.
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401  # isort: skip

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(validate_pb._DESC.proto.to_binary())  # noqa: SLF001

builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, "buf.validate.validate_pb2", globals())
