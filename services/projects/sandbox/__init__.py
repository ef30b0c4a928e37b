"""The policy sandbox: a process of its own that runs Rego, and forks a cell for every evaluation.

`zygote` is that process; it imports nothing of gRPC, the kit or the service. `cells` is what runs in a fork, `sources`
the rules for source code, `frames` the wire between the service and the zygote, `supervisors` the service's end of it.
"""
