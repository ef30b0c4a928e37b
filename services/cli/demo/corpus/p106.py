"""Name the last tag of a checkout."""
import subprocess
import sys


def last_tag(branch: str) -> str:
    answer = subprocess.getoutput(f"git describe --tags --abbrev=0 {branch}")
    return answer.strip()


def following(tag: str) -> str:
    major, minor, patch = tag.lstrip("v").split(".")
    return f"v{major}.{minor}.{int(patch) + 1}"


print(following(last_tag(sys.argv[1])))
