"""The identity of the process: a certificate with its SPIFFE name from OpenBao's PKI, renewed before it ends.

Servers take a new certificate on the next handshake; channels are rebuilt by `clients`, which is told of renewals.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import structlog
from cryptography import x509

from services.kit import clock, faults
from services.kit.vault import Vault

RETRY_SECONDS = 15.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A private key, its certificate chain and the authority that both ends trust, as PEM."""

    key: bytes
    chain: bytes
    authority: bytes

    @property
    def seconds_left(self) -> float:
        """Seconds until it ends."""
        return (x509.load_pem_x509_certificate(self.chain).not_valid_after_utc - clock.now()).total_seconds()


class Identity:
    """The certificate that the process presents, as server and as client."""

    def __init__(self, *, service: str, trust_domain: str, vault: Vault) -> None:
        self._service = service
        self._name = f"spiffe://{trust_domain}/{service}"
        self._vault = vault
        self._certificate: Certificate | None = None
        self._renewed: list[Callable[[], None]] = []

    @property
    def certificate(self) -> Certificate:
        """The certificate in use."""
        if self._certificate is None:
            raise RuntimeError("Identity.obtain() comes first")
        return self._certificate

    async def obtain(self) -> None:
        """Get a new certificate and use it from now on."""
        answer = await self._vault.write(
            f"pki/issue/{self._service}",
            uri_sans=self._name,
            alt_names=f"localhost,{self._service}",
            ip_sans="127.0.0.1",
        )
        chain = "\n".join([answer["certificate"], *answer.get("ca_chain", [])])
        self._certificate = Certificate(answer["private_key"].encode(), chain.encode(), answer["issuing_ca"].encode())
        for notify in self._renewed:
            notify()

    def on_renewal(self, notify: Callable[[], None]) -> None:
        """Call this after each renewal."""
        self._renewed.append(notify)

    async def keep(self) -> None:
        """Renew at two thirds of the certificate's life, for as long as the process runs."""
        while True:
            await asyncio.sleep(max(self.certificate.seconds_left * 2 / 3, RETRY_SECONDS))
            with contextlib.suppress(
                faults.DependencyUnavailable
            ):  # it was logged, and there is a third of a life left
                await self.obtain()
                _log.info("certificate renewed", seconds_left=round(self.certificate.seconds_left))

    def server_credentials(self) -> grpc.ServerCredentials:
        """Give credentials that ask every client for a certificate and follow renewals."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._configuration, require_client_authentication=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Give credentials with today's certificate."""
        held = self.certificate
        return grpc.ssl_channel_credentials(held.authority, held.key, held.chain)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        held = self.certificate
        return grpc.ssl_server_certificate_configuration([(held.key, held.chain)], held.authority)


def peer_service(auth_context: dict[str, list[bytes]], trust_domain: str) -> str:
    """Give the service that the connection's certificate names; empty when there is none."""
    for name in auth_context.get("peer_spiffe_id", ()):
        prefix = f"spiffe://{trust_domain}/".encode()
        if name.startswith(prefix):
            return name.removeprefix(prefix).decode()
    return ""
