"""Ask the switches for their interface state."""
import os

import paramiko


def state(host: str) -> str:
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.connect(host, username=os.environ["SWITCH_USER"], timeout=10)
    try:
        with client.open_sftp() as files, files.open("interfaces.txt") as shown:
            return shown.read().decode()
    finally:
        client.close()


def down(host: str) -> list[str]:
    return [line.split()[0] for line in state(host).splitlines() if line.endswith("down")]
