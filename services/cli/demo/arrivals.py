"""Steps 1 to 3: people come in, a key is sealed, a project begins."""

import re
import secrets
import subprocess
import sys

from services.cli.demo import configurations, outside, people
from services.cli.demo.stage import Stage, struct
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import baseline_pb2, baseline_service_pb2, policy_pb2, policy_service_pb2
from triptych.projects.v1.baseline_service_pb2_grpc import BaselineServiceStub
from triptych.projects.v1.policy_service_pb2_grpc import PolicyServiceStub
from triptych.projects.v1.project_pb2 import Project
from triptych.projects.v1.project_service_pb2 import CreateProjectRequest
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub
from triptych.providers.v1.key_service_pb2 import ListKeysRequest, StoreKeyRequest
from triptych.providers.v1.key_service_pb2_grpc import KeyServiceStub
from triptych.providers.v1.provider_pb2 import Provider, ProviderType
from triptych.providers.v1.provider_service_pb2 import CreateProviderRequest
from triptych.providers.v1.provider_service_pb2_grpc import ProviderServiceStub

POLICY = """package demo.alarms

import rego.v1

# False alarms cost trust: a candidate may not raise their rate by more than five points, however much it catches.
rise := input.metrics.candidate.false_positive_rate - input.metrics.production.false_positive_rate

default decision := {"allow": false, "deny": [{"code": "NO_DATA", "msg": "no false alarms were measured"}]}

decision := {"allow": true, "deny": []} if rise <= 0.05

decision := {"allow": false, "deny": [{"code": "MORE_ALARMS", "msg": "false alarms rose by more than 5 points"}]} if {
    rise > 0.05
}
"""


async def people_arrive(stage: Stage) -> None:
    """Step 1: an admin is bootstrapped and invites others."""
    tell = stage.narrator
    tell.begin(1, "People: an admin is bootstrapped and invites others")
    tell.call("operator", "triptych bootstrap-admin", "--tenant acme")
    command = [sys.executable, "-m", "services.cli.main", "bootstrap-admin", "--tenant", "acme"]
    done = subprocess.run(  # noqa: S603, ASYNC221 - the operator's own command, and nothing else runs meanwhile
        [*command, "--home", stage.summary["home"]], capture_output=True, text=True, check=False
    )
    found = re.search(r"\btri_[0-9a-f]{32}_[A-Za-z0-9_-]+", done.stdout)
    tell.check(found is not None, f"no invitation came: {done.stdout}{done.stderr}")
    invitation = found.group() if found else ""
    tell.got("a one-time invitation; no default password exists anywhere")
    stage.cast["Ada"] = await stage.town.arrive("Ada", invitation)
    roles = {"Grace": Role.ROLE_ADMIN, "Katherine": Role.ROLE_ADMIN, "Linus": Role.ROLE_USER}
    for name, role in roles.items():
        code = await people.invite(stage.cast["Ada"], role)
        stage.cast[name] = await stage.town.arrive(name, code)
    for person in stage.cast.values():
        role_name = "ROLE_USER" if person.name == "Linus" else "ROLE_ADMIN"
        tell.call(person.name, "Register, VerifyEmail, Login", f"{person.email}  {role_name}  user {person.id}")
    tell.say("An invitation works once:")
    with stage.refused("INVITATION_INVALID"):
        await stage.town.arrive("Mallory", invitation)


async def a_key_is_sealed(stage: Stage) -> None:
    """Step 2: a person stores a provider key."""
    tell = stage.narrator
    tell.begin(2, "A provider key goes in, and does not come out")
    ada, linus = stage.cast["Ada"].client, stage.cast["Linus"].client
    providers = ada.stub(ProviderServiceStub)
    with outside.provider(stage) as endpoint:
        spec = Provider(
            name="house-model", type=ProviderType.PROVIDER_TYPE_OPENAI_COMPATIBLE, model_name="house-7b",
            api_endpoint=endpoint, input_cost_usd_per_1k="0.0005", output_cost_usd_per_1k="0.0015",
            max_tokens=4096, timeout_seconds=10,
        )  # fmt: skip
        house = (await providers.CreateProvider(CreateProviderRequest(provider=spec))).provider
        tell.call("Ada", "ProviderService.CreateProvider", f"{house.name} at {endpoint}")
        keys = linus.stub(KeyServiceStub)
        tell.call("Linus", "KeyService.StoreKey", "a key that the provider does not know")
        with stage.refused("KEY_REJECTED_BY_PROVIDER"):
            await keys.StoreKey(StoreKeyRequest(provider_id=house.id, label="work", api_key="sk-wrong-0000000000"))
        real = outside.KEY_PREFIX + secrets.token_hex(16)
        stored = (await keys.StoreKey(StoreKeyRequest(provider_id=house.id, label="work", api_key=real))).key
    tell.call("Linus", "KeyService.StoreKey", "the right one: tried at the provider first, then sealed")
    tell.got(f"key {stored.id}  ends in {stored.last_four}  wrapped by KEK version {stored.kek_version}")
    listed = (await keys.ListKeys(ListKeysRequest())).keys
    tell.check(real not in str(listed) and listed[0].last_four == real[-4:], "the key must not come back")
    local = Provider(
        name="local-analysers", type=ProviderType.PROVIDER_TYPE_LOCAL, model_name="bandit+ruff",
        input_cost_usd_per_1k="0.0001", max_tokens=1_000_000, timeout_seconds=60,
    )  # fmt: skip
    answer = await providers.CreateProvider(CreateProviderRequest(provider=local))
    stage.analysers_id = answer.provider.id
    tell.call("Ada", "ProviderService.CreateProvider", "local-analysers, 0.0001 USD per 1,000 tokens of code")


async def a_project_begins(stage: Stage) -> None:
    """Step 3: a project with baselines, a policy and something in production."""
    tell = stage.narrator
    tell.begin(3, "A project: production, baselines, a policy")
    ada = stage.cast["Ada"].client
    request = CreateProjectRequest(
        project=Project(name="code-reviewer", description="Finds security weaknesses in Python programs."),
        production_configuration=struct(configurations.PRODUCTION),
    )
    tell.say("Linus is a user, not an admin:")
    with stage.refused("CALLER_NOT_PERMITTED"):
        await stage.cast["Linus"].client.stub(ProjectServiceStub).CreateProject(request)
    stage.project = (await ada.stub(ProjectServiceStub).CreateProject(request)).project
    stage.versions["bandit alone"] = stage.project.production_version_id
    tell.call("Ada", "ProjectService.CreateProject", f"project {stage.project.id}")
    tell.got(f"in production (v2): bandit alone, version {stage.project.production_version_id}")
    await _set_baselines(stage)
    policies = ada.stub(PolicyServiceStub)
    created = await policies.CreatePolicy(
        policy_service_pb2.CreatePolicyRequest(policy=policy_pb2.Policy(name="few-false-alarms", rego=POLICY))
    )
    await policies.AttachPolicy(
        policy_service_pb2.AttachPolicyRequest(project_id=stage.project.id, policy_id=created.policy.id)
    )
    tell.call("Ada", "PolicyService.CreatePolicy, AttachPolicy", f"{created.policy.name}: Rego, evaluated in a sandbox")
    tell.say("A policy that reaches outside is refused when it is uploaded:")
    curious = policy_pb2.Policy(name="curious", rego='package a\ndecision := http.send({"url": "http://localhost"})\n')
    with stage.refused("POLICY_FORBIDDEN_BUILTIN"):
        await policies.CreatePolicy(policy_service_pb2.CreatePolicyRequest(policy=curious))


async def _set_baselines(stage: Stage) -> None:
    """The defaults, but for one that 182 items cannot prove; and production as a floor."""
    baselines = stage.cast["Ada"].client.stub(BaselineServiceStub)
    listed = await baselines.ListBaselines(baseline_service_pb2.ListBaselinesRequest(project_id=stage.project.id))
    strict = next(baseline for baseline in listed.baselines if baseline.metric_key == "security_pass_rate")
    strict.threshold = 0.85
    await baselines.UpdateBaseline(baseline_service_pb2.UpdateBaselineRequest(baseline=strict))
    floor = baseline_pb2.Baseline(
        project_id=stage.project.id, metric_key="accuracy",
        operator=baseline_pb2.BASELINE_OPERATOR_NOT_INFERIOR, margin=0.03,
    )  # fmt: skip
    await baselines.CreateBaseline(baseline_service_pb2.CreateBaselineRequest(baseline=floor))
    stage.narrator.call("Ada", "BaselineService.UpdateBaseline", "security_pass_rate >= 0.85 (0.99 needs more items)")
    stage.narrator.call("Ada", "BaselineService.CreateBaseline", "accuracy not worse than production by more than 0.03")
