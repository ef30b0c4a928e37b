"""The services of Triptych, one package per bounded context, over the shared mechanism in `kit`."""
