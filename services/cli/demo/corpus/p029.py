"""Ask a printer how many pages it has printed."""
import os

from pysnmp.hlapi import CommunityData, ContextData, ObjectIdentity, ObjectType
from pysnmp.hlapi import SnmpEngine, UdpTransportTarget, getCmd

PAGES = "1.3.6.1.2.1.43.10.2.1.4.1.1"


def pages(printer: str) -> int:
    who = CommunityData(os.environ["SNMP_COMMUNITY"], mpModel=0)
    found = getCmd(
        SnmpEngine(), who, UdpTransportTarget((printer, 161)), ContextData(), ObjectType(ObjectIdentity(PAGES))
    )
    failure, status, _, values = next(found)
    if failure or status:
        raise RuntimeError(f"{printer} did not answer: {failure or status}")
    return int(values[0][1])
