"""Attacks on access tokens, each named for what it tries. Whatever is wrong, the answer is the same TOKEN_INVALID."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.kit import clock, faults
from services.kit.tokens import SigningKey, Verifier
from tests.suite import Issuer, Suite
from triptych.common.v1.role_pb2 import Role
from triptych.projects.v1 import project_service_pb2 as pb
from triptych.projects.v1.project_service_pb2_grpc import ProjectServiceStub

HEADER = {"alg": "EdDSA", "typ": "at+jwt", "kid": "test"}


class Keys:
    """Counts how often keys are fetched."""

    def __init__(self, *found: SigningKey) -> None:
        self.found = list(found)
        self.fetched = 0

    async def __call__(self) -> Iterable[SigningKey]:
        self.fetched += 1
        return self.found


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def keys(issuer: Issuer) -> Keys:
    return Keys(*await issuer.keys())


@pytest.fixture
def verifier(keys: Keys) -> Verifier:
    return Verifier(issuer="https://triptych.local", audience="triptych", fetch=keys)


def claims(**changes: Any) -> dict[str, Any]:
    subject, tenant = str(uuid.uuid4()), str(uuid.uuid4())
    return {"sub": subject, "tid": tenant, "kind": "user", "role": int(Role.ROLE_ADMIN)} | changes


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(key: Ed25519PrivateKey, header: bytes, payload: bytes) -> str:
    """Sign bytes as they are, well-formed or not."""
    text = f"{encode(header)}.{encode(payload)}"
    return f"{text}.{encode(key.sign(text.encode()))}"


def payload(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    usual = {"iss": "https://triptych.local", "aud": "triptych", "iat": now, "exp": now + 600, "scope": ""}
    return usual | {"sid": str(uuid.uuid4()), "ver": 1} | claims() | changes


async def refused(verifier: Verifier, token: str) -> None:
    with pytest.raises(faults.TokenInvalid):
        await verifier.verify(token)


async def test_an_ordinary_token_names_its_caller(verifier: Verifier, issuer: Issuer) -> None:
    given = claims()
    caller = await verifier.verify(issuer.token(given))
    assert (caller.kind, caller.id, caller.tenant_id, caller.role) == (
        "user",
        given["sub"],
        given["tid"],
        Role.ROLE_ADMIN,
    )


@pytest.mark.parametrize("alg", ["none", "nOnE", "None", "", None, "ES256", "HS256", "eddsa", "Ed25519", ["EdDSA"]])
async def test_cve_2026_1529_no_algorithm_or_another(verifier: Verifier, issuer: Issuer, alg: object) -> None:
    header = {name: value for name, value in (HEADER | {"alg": alg}).items() if value is not None}
    token = issuer.token(claims(), header)
    await refused(verifier, token)
    await refused(verifier, f"{token.rpartition('.')[0]}.")
    await refused(verifier, token.rpartition(".")[0])


@pytest.mark.parametrize("form", ["raw", "der", "pem", "jwk"])
@pytest.mark.parametrize("alg", ["HS256", "EdDSA"])
async def test_cve_2026_11800_a_mac_with_the_public_key_as_its_secret(
    verifier: Verifier, issuer: Issuer, form: str, alg: str
) -> None:
    public = issuer._key.public_key()
    raw = public.public_bytes_raw()
    secret = {
        "raw": raw,
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps({"kty": "OKP", "crv": "Ed25519", "x": encode(raw)}).encode(),
    }[form]
    text = f"{encode(json.dumps(HEADER | {'alg': alg}).encode())}.{encode(json.dumps(payload()).encode())}"
    await refused(verifier, f"{text}.{encode(hmac.digest(secret, text.encode(), 'sha256'))}")


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
async def test_an_embedded_key_of_the_attackers(verifier: Verifier, keys: Keys, name: str) -> None:
    attacker = Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": encode(attacker.public_key().public_bytes_raw()), "kid": "test"}
    value = {"jwk": jwk, "x5c": ["AAAA"]}.get(name, "https://attacker.example/keys")
    header = json.dumps(HEADER | {name: value}).encode()
    await refused(verifier, signed(attacker, header, json.dumps(payload()).encode()))
    assert keys.fetched == 0


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", 7, None, ["test"], "k" * 10_000, "", "tes", "TEST"])
async def test_a_key_id_that_is_none(verifier: Verifier, issuer: Issuer, kid: object) -> None:
    await refused(verifier, issuer.token(claims(), HEADER | {"kid": kid}))


async def test_a_thousand_unknown_key_ids_cost_one_fetch(verifier: Verifier, issuer: Issuer, keys: Keys) -> None:
    unknown = [issuer.token(claims(), HEADER | {"kid": f"unknown-{n}"}) for n in range(1000)]
    found = await asyncio.gather(*(verifier.verify(token) for token in unknown), return_exceptions=True)
    assert {type(result) for result in found} == {faults.TokenInvalid}
    assert keys.fetched == 1


@pytest.mark.parametrize("crit", [["exp"], [], ["b64"], "exp"])
async def test_critical_extensions(verifier: Verifier, issuer: Issuer, crit: object) -> None:
    await refused(verifier, issuer.token(claims(), HEADER | {"crit": crit}))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "99999999999"},
        {"exp": 99999999999.5},
        {"exp": True},
        {"iat": 99999999999},
        {"iat": None},
        {"nbf": 99999999999},
        {"nbf": "0"},
        {"aud": "triptych-other"},
        {"aud": "tript"},
        {"iss": []},
        {"aud": ["triptych"]},
        {"aud": None},
        {"iss": ["https://triptych.local"]},
        {"iss": "https://triptych.local.attacker.example"},
        {"iss": None},
        {"sub": "admin"},
        {"sub": None},
        {"tid": "*"},
        {"tid": None},
        {"kind": "service"},
        {"kind": "public"},
        {"role": "4"},
        {"role": True},
        {"role": 99},
        {"scope": ["*"]},
        {"sid": None},
        {"sid": "s"},
        {"ver": None},
        {"ver": 0},
        {"ver": -1},
        {"ver": "1"},
        {"ver": True},
        {"ver": 1.0},
    ],
)
async def test_cve_2026_75509_a_claim_that_is_wrong_or_a_list(
    verifier: Verifier, issuer: Issuer, changes: dict[str, Any]
) -> None:
    await refused(verifier, issuer.token(claims(**changes)))


async def test_an_absent_end_is_no_end(verifier: Verifier, issuer: Issuer) -> None:
    given = payload()
    del given["exp"]
    await refused(verifier, signed(issuer._key, json.dumps(HEADER).encode(), json.dumps(given).encode()))


async def test_a_token_ends_though_it_is_remembered(
    verifier: Verifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token(claims())
    await verifier.verify(token)
    later = time.time() + 600 + clock.LEEWAY + 1
    monkeypatch.setattr(time, "time", lambda: later)
    await refused(verifier, token)


@pytest.mark.parametrize("typ", ["JWT", "refresh+jwt", "id+jwt", "AT+JWT", "application/at+jwt", None])
async def test_a_token_of_another_kind(verifier: Verifier, issuer: Issuer, typ: str | None) -> None:
    header = {name: value for name, value in (HEADER | {"typ": typ}).items() if value is not None}
    await refused(verifier, issuer.token(claims(), header))


@pytest.mark.parametrize("balance", ["", r', "x": "\u003a"', r', "x": {"y": 1, "y": 2}'])
async def test_a_claim_that_stands_twice(verifier: Verifier, issuer: Issuer, balance: str) -> None:
    text = json.dumps(payload())
    twice = f'{{"sub": "{uuid.uuid4()}", {text[1:-1]}{balance}}}'
    await refused(verifier, signed(issuer._key, json.dumps(HEADER).encode(), twice.encode()))
    header = '{"alg": "none", "alg": "EdDSA", "typ": "at+jwt", "kid": "test"}'
    await refused(verifier, signed(issuer._key, header.encode(), text.encode()))


@pytest.mark.parametrize("text", [b"[]", b"null", b"NaN", b'{"exp": NaN}', b"\xff\xfe{\x00}\x00", b"", b"{", b'"sub"'])
async def test_a_payload_that_is_no_object(verifier: Verifier, issuer: Issuer, text: bytes) -> None:
    await refused(verifier, signed(issuer._key, json.dumps(HEADER).encode(), text))


@pytest.mark.parametrize("size", [4_000, 1_000_000])
async def test_a_huge_or_deep_token_is_refused_at_once(verifier: Verifier, size: int) -> None:
    deep = encode(b"[" * (size * 3 // 8))
    before = time.thread_time()
    await refused(verifier, "x" * size)
    await refused(verifier, f"{deep}.{deep[:100]}.AAAA")
    await refused(verifier, "." * size)
    assert time.thread_time() - before < 0.1


async def test_a_signature_by_somebody_else(verifier: Verifier, issuer: Issuer) -> None:
    other = Issuer()
    await refused(verifier, other.token(claims()))
    text = issuer.token(claims())
    await refused(verifier, f"{text.rpartition('.')[0]}.{encode(b'x' * 64)}")
    await refused(verifier, f"{text.rpartition('.')[0]}.{encode(b'x' * 63)}")
    await refused(verifier, text + "=")


async def test_a_key_counts_only_in_its_time() -> None:
    issuer = Issuer()
    public = (await issuer.keys())[0].public_key  # type: ignore[index]
    now = time.time()
    for not_before, not_after, good in (
        (now - 900, now + 60, True),
        (now - 900, now - clock.LEEWAY - 1, False),
        (now + clock.LEEWAY + 60, now + 900, False),
    ):
        source = Keys(SigningKey("test", public, not_before, not_after))
        verifier = Verifier(issuer="https://triptych.local", audience="triptych", fetch=source)
        if good:
            await verifier.verify(issuer.token(claims()))
        else:
            await refused(verifier, issuer.token(claims()))


async def test_what_is_remembered_is_the_whole_token(verifier: Verifier, issuer: Issuer) -> None:
    token = issuer.token(claims())
    await verifier.verify(token)
    assert hashlib.sha256(token.encode()).digest() in verifier._verified
    await refused(verifier, token[:-2] + ("AA" if not token.endswith("AA") else "BB"))


@pytest.mark.parametrize(
    "form", ["two", "Basic {}", "bearer  {}", "{}", "Bearer", "Bearer {} {}", "Bearer {},Bearer {}"]
)
async def test_an_authorization_that_is_no_bearer_token_over_the_wire(suite: Suite, form: str) -> None:
    await suite.start("projects")
    token = suite.person().token
    bearer = ("authorization", f"Bearer {token}")
    metadata = (bearer, bearer) if form == "two" else (("authorization", form.format(token, token)),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{suite.runtimes['projects'].plaintext_port}") as channel:
        stub = ProjectServiceStub(channel)
        await stub.ListProjects(pb.ListProjectsRequest(), metadata=(bearer,))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListProjects(pb.ListProjectsRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert token not in (caught.value.details() or "")
