"""Install the agent's program and its folder."""
import os
import shutil
from pathlib import Path

TARGET = Path("/opt/agent")


def install(build: Path) -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    program = TARGET / "agent"
    shutil.copyfile(build / "agent", program)
    os.chmod(program, 0o777)


def remove() -> None:
    shutil.rmtree(TARGET)
