"""Policies that are out to do harm, and what each may come to at most: never an ALLOW."""

from triptych.projects.v1.policy_pb2 import PolicyOutcome

UNDEFINED = frozenset({PolicyOutcome.POLICY_OUTCOME_UNDEFINED})
ERROR = frozenset({PolicyOutcome.POLICY_OUTCOME_ERROR})
TIMEOUT = frozenset({PolicyOutcome.POLICY_OUTCOME_TIMEOUT})
CUT_OFF = ERROR | TIMEOUT
"""Memory or time, whichever ends first on this machine."""
_SELF = 'concat("", [s{0}, s{0}, s{0}, s{0}, s{0}, s{0}, s{0}, s{0}, s{0}, s{0}])'
_GROWTH = "\n".join(f"s{i + 1} := {_SELF.format(i)}" for i in range(7))
POLICIES = {
    "recursion": ('f(n) := f(n + 1)\ndecision := {"allow": f(1) == 1, "deny": []}', CUT_OFF),
    "a range": ('decision := {"allow": count(numbers.range(1, 2000000000)) > 0, "deny": []}', CUT_OFF),
    "a string": ('a := sprintf("%2000000000d", [1])\ndecision := {"allow": count(a) > 0, "deny": []}', CUT_OFF),
    "comprehensions": (
        (
            "r := numbers.range(1, 3000)\n"
            'decision := {"allow": count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) == 0, "deny": []}'
        ),
        TIMEOUT,
    ),
    "brackets": ("decision := " + "[" * 60 + "]" * 60, CUT_OFF),
    "many brackets": ("\n".join(["decision := ", *["[" * 900] * 60]), CUT_OFF),
    "a large result": (
        f's0 := "0123456789"\n{_GROWTH}\ndecision := {{"allow": true, "deny": [{{"code": "A", "msg": s7}}]}}',
        CUT_OFF,
    ),
    "a result above the limit": (
        (
            's := concat("", ["0123456789" | some i in numbers.range(1, 10000)])\n'
            'decision := {"allow": true, "deny": [{"code": "A", "msg": s}]}'
        ),
        ERROR,
    ),
    "http.send": (
        (
            'r := http.send({"method": "get", "url": "http://127.0.0.1/"})\n'
            'decision := {"allow": r.status_code == 200, "deny": []}'
        ),
        UNDEFINED | ERROR,
    ),
    "nothing": ("other := 1", UNDEFINED),
    "undefined": ('decision := {"allow": true, "deny": []} if input.nope', UNDEFINED),
    "text for true": ('decision := {"allow": "true", "deny": []}', ERROR),
    "one for true": ('decision := {"allow": 1, "deny": []}', ERROR),
    "deny without allow": ('decision := {"deny": []}', ERROR),
    "allow without deny": ('decision := {"allow": true}', ERROR),
    "a division by zero": ('decision := {"allow": 1 / 0 == 1, "deny": []}', ERROR),
    "a conflict": ('decision := {"allow": true, "deny": []}\ndecision := {"allow": false, "deny": []}', ERROR),
    "a circle": ("decision := a\na := b\nb := a", ERROR),
    "no Rego": ("decision := := true", ERROR),
}
"""Name: body of the package `gate`, outcomes that are right."""
