"""Check that a release has arrived on a remote host."""
import paramiko


def arrived(host: str, release: str) -> bool:
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.connect(host, username="deploy")
    try:
        _, answer, _ = client.exec_command("ls /srv/releases/" + release)
        return "manifest.json" in answer.read().decode()
    finally:
        client.close()


def missing(hosts: list[str], release: str) -> list[str]:
    return [host for host in hosts if not arrived(host, release)]
