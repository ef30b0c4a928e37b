"""The mechanism that all services share: server, database, faults, clients, outbox, settings. It knows no business."""

import os

# Read by grpc when it is imported. Nothing here forks and goes on (children are other programs): no need to prepare.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
