"""Deliver the price list to a partner."""
import netrc
from ftplib import FTP_TLS
from pathlib import Path


def deliver(host: str, listing: Path) -> None:
    user, _, phrase = netrc.netrc().authenticators(host)
    with FTP_TLS(host, timeout=30) as line:
        line.login(user, phrase)
        line.prot_p()
        with listing.open("rb") as content:
            line.storbinary(f"STOR {listing.name}", content)


def deliver_all(hosts: list[str], listing: Path) -> None:
    for host in hosts:
        deliver(host, listing)
