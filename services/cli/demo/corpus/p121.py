"""Ask the switches for their interface state."""
import os
import telnetlib


def state(host: str) -> str:
    with telnetlib.Telnet(host, timeout=10) as line:
        line.read_until(b"login: ")
        line.write(os.environ["SWITCH_USER"].encode() + b"\n")
        line.write(b"show interfaces brief\nexit\n")
        return line.read_all().decode()


def down(host: str) -> list[str]:
    return [line.split()[0] for line in state(host).splitlines() if line.endswith("down")]
