"""The life of one change, as `make demo` lives it."""

import subprocess
import sys

from tests.patience import many_rounds


@many_rounds
def test_the_demo_lives_its_ten_steps_and_leaves_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "demo"], capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for number in range(11):
        assert f"\n{number}. " in done.stdout
    for refused in (
        "INVITATION_INVALID",
        "KEY_REJECTED_BY_PROVIDER",
        "CALLER_NOT_PERMITTED",
        "POLICY_FORBIDDEN_BUILTIN",
        "SELF_APPROVAL",
        "EVALUATION_NOT_PASSED",
        "OVERRIDE_BY_AUTHOR",
        "CONFIGURATION_BLACKLISTED",
    ):
        assert refused in done.stdout
