"""The mechanism that all services share: server, database, faults, clients, outbox, settings. It knows no business."""
