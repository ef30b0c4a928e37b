"""WebAuthn's two ceremonies as the library checks them, for one relying party. Knows no rows and asks nobody.

What a browser sends is hostile until it has been checked: whatever the library raises over it is one refusal.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.authentication.verify_authentication_response import VerifiedAuthentication
from webauthn.helpers import (
    base64url_to_bytes,
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    parse_attestation_object,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationFormat,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)
from webauthn.registration.verify_registration_response import VerifiedRegistration

from services.kit import faults

NAME = "Triptych"
WAIT_MILLISECONDS = 300_000
ALGORITHMS = [
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
FORMATS = (AttestationFormat.NONE, AttestationFormat.PACKED)
"""No attestation is asked for: browsers send none, or a self-signed one. Others would be code to attack for no gain."""
LONGEST_ID, LONGEST_KEY = 1023, 1024
PROBLEMS = (
    WebAuthnException,
    InvalidSignature,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What the library raises over input that is out of shape."""


class PasskeysOff(faults.FailedPrecondition):
    """The installation names no relying party."""

    def __init__(self) -> None:
        super().__init__("there are no passkeys here: an operator sets webauthn_rp_id and webauthn_origins")


class PasskeyInvalid(faults.Unauthenticated):
    """The passkey's answer does not verify; why is not said."""

    def __init__(self) -> None:
        super().__init__("the passkey's answer does not verify; begin again")


@dataclass(frozen=True, slots=True)
class Given:
    """What a browser sent, as far as it can be read without trusting it."""

    document: dict[str, Any]
    credential_id: bytes
    challenge: bytes
    user_handle: bytes | None
    embedded: bool
    """It was asked for by a page within another's page."""

    @property
    def transports(self) -> list[Any]:
        """How the authenticator says it can be reached."""
        found = self.document["response"].get("transports")
        return found if isinstance(found, list) else []


def read(text: str) -> Given:
    """Read what a browser sent, or refuse it."""
    try:
        document = orjson.loads(text)
        response = document["response"]
        client = orjson.loads(base64url_to_bytes(response["clientDataJSON"]))
        handle = response.get("userHandle")
        return Given(
            document,
            base64url_to_bytes(document["rawId"]),
            base64url_to_bytes(client["challenge"]),
            base64url_to_bytes(handle) if handle else None,
            embedded=client.get("crossOrigin") not in (None, False),
        )
    except PROBLEMS:
        raise PasskeyInvalid from None


class RelyingParty:
    """The domain that passkeys belong to, and the pages that may ask for them."""

    def __init__(self, rp_id: str, origins: list[str]) -> None:
        self._id = rp_id
        self._origins = origins

    def check_on(self) -> None:
        """Refuse where there are no passkeys."""
        if not self._id:
            raise PasskeysOff

    def registration_options(
        self, *, handle: bytes, email: str, name: str, known: list[bytes], challenge: bytes
    ) -> str:
        """Give what a browser needs to make a passkey that finds its owner by itself and asks who they are."""
        return options_to_json(
            generate_registration_options(
                rp_id=self._id,
                rp_name=NAME,
                user_id=handle,
                user_name=email,
                user_display_name=name,
                challenge=challenge,
                timeout=WAIT_MILLISECONDS,
                authenticator_selection=AuthenticatorSelectionCriteria(
                    resident_key=ResidentKeyRequirement.REQUIRED,
                    user_verification=UserVerificationRequirement.REQUIRED,
                ),
                exclude_credentials=[PublicKeyCredentialDescriptor(id=each) for each in known],
                supported_pub_key_algs=ALGORITHMS,
            )
        )

    def login_options(self, *, challenge: bytes, allowed: list[bytes], alone: bool) -> str:
        """Give what a browser needs to use a passkey; alone it has to verify the person as well."""
        return options_to_json(
            generate_authentication_options(
                rp_id=self._id,
                challenge=challenge,
                timeout=WAIT_MILLISECONDS,
                allow_credentials=[PublicKeyCredentialDescriptor(id=each) for each in allowed],
                user_verification=_verification(alone),
            )
        )

    def registered(self, given: Given, challenge: bytes) -> VerifiedRegistration:
        """Check a new passkey, or refuse it."""
        if given.embedded:
            raise PasskeyInvalid
        try:
            attestation = parse_attestation_object(base64url_to_bytes(given.document["response"]["attestationObject"]))
            if attestation.fmt not in FORMATS:
                raise PasskeyInvalid
            found = verify_registration_response(
                credential=given.document,
                expected_challenge=challenge,
                expected_rp_id=self._id,
                expected_origin=self._origins,
                require_user_verification=True,
                supported_pub_key_algs=ALGORITHMS,
            )
            decoded_public_key_to_cryptography(decode_credential_public_key(found.credential_public_key))
        except PROBLEMS:
            raise PasskeyInvalid from None
        if len(found.credential_id) > LONGEST_ID or len(found.credential_public_key) > LONGEST_KEY:
            raise PasskeyInvalid
        return found

    def asserted(
        self, given: Given, challenge: bytes, *, public_key: bytes, sign_count: int, alone: bool
    ) -> VerifiedAuthentication:
        """Check the use of a passkey, or refuse it."""
        if given.embedded:
            raise PasskeyInvalid
        try:
            return verify_authentication_response(
                credential=given.document,
                expected_challenge=challenge,
                expected_rp_id=self._id,
                expected_origin=self._origins,
                credential_public_key=public_key,
                credential_current_sign_count=sign_count,
                require_user_verification=alone,
            )
        except PROBLEMS:
            raise PasskeyInvalid from None


def _verification(alone: bool) -> UserVerificationRequirement:
    return UserVerificationRequirement.REQUIRED if alone else UserVerificationRequirement.PREFERRED
