"""Ask a printer how many pages it has printed."""
import os

from pysnmp.hlapi import ContextData, ObjectIdentity, ObjectType, UsmUserData
from pysnmp.hlapi import SnmpEngine, UdpTransportTarget, getCmd
from pysnmp.hlapi import usmAesCfb256Protocol, usmHMAC384SHA512AuthProtocol

PAGES = "1.3.6.1.2.1.43.10.2.1.4.1.1"


def pages(printer: str) -> int:
    who = UsmUserData(
        os.environ["SNMP_USER"],
        os.environ["SNMP_AUTH"],
        os.environ["SNMP_PRIVACY"],
        authProtocol=usmHMAC384SHA512AuthProtocol,
        privProtocol=usmAesCfb256Protocol,
    )
    found = getCmd(
        SnmpEngine(), who, UdpTransportTarget((printer, 161)), ContextData(), ObjectType(ObjectIdentity(PAGES))
    )
    failure, status, _, values = next(found)
    if failure or status:
        raise RuntimeError(f"{printer} did not answer: {failure or status}")
    return int(values[0][1])
