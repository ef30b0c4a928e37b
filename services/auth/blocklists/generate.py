"""Makes the file of common passwords: `python -m services.auth.blocklists.generate`.

Published lists of leaked passwords hold few of 15 characters and more. What people do when a form demands so many
is known all the same: they repeat, double, walk over the keyboard, count, and join the words that they used before.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from services.auth import blocklists

SHORTEST, LONGEST = 15, 64
# The heads of every published list, and words that belong to this service.
WORDS = """
password passw0rd p@ssw0rd p@ssword pass admin administrator root welcome welcome1 letmein changeme default secret login
user test guest demo master monkey dragon qwerty qwertz azerty qwertyuiop asdfgh asdfghjkl zxcvbn zxcvbnm iloveyou
sunshine princess football baseball superman batman trustno1 shadow michael jordan jennifer hunter hunter2 starwars
computer internet samsung google facebook linkedin microsoft windows ubuntu linux docker kubernetes whatever freedom
summer winter spring autumn january february march april june july august september october november december
monday tuesday wednesday thursday friday saturday sunday london paris berlin america company service temporary
access mustang charlie ashley daniel thomas robert jessica nicole hello flower cookie cheese banana chocolate
abc123 123abc 1q2w3e4r 1qaz2wsx qazwsx q1w2e3r4 zaq12wsx 1234 12345 123456 1234567 12345678 123456789 1234567890
123123 111111 000000 654321 987654321 112233 121212 696969 666666
triptych experiment production quarantine governance promotion baseline model agent provider openai anthropic
""".split()  # noqa: SIM905 - a list of words reads better so
TAILS = (
    "",
    "!",
    "1",
    "12",
    "123",
    "1234",
    "12345",
    "123456",
    "!1",
    "1!",
    "123!",
    "2023",
    "2024",
    "2025",
    "2026",
    "@123",
)
ROWS = (
    "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "azertyuiop", "yxcvbnm", "1234567890", "0987654321",
    "qwertyuiopasdfghjklzxcvbnm", "1234567890qwertyuiop", "1qaz2wsx3edc4rfv5tgb", "qazwsxedcrfvtgbyhnujmikolp",
    "1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0", "zaq12wsxcde34rfvbgt56yhn", "abcdefghijklmnopqrstuvwxyz",
    "!@#$%^&*()_+", "9876543210", "0123456789", "112233445566778899", "abc123def456ghi789",
)  # fmt: skip
PHRASES = """
correcthorsebatterystaple correct-horse-battery-staple correct_horse_battery_staple correct.horse.battery.staple
tobeornottobethatisthequestion tobeornottobe123 thequickbrownfox thequickbrownfoxjumpsoverthelazydog
maytheforcebewithyou winteriscoming123 thisismypassword thisisapassword thisisasecret mypasswordissecret
ihatepasswords123 ilovemyfamily123 iloveyouforever iloveyousomuch iloveyou3000 letmeinplease letmeinletmein
openthedoorplease passwordispassword nevergonnagiveyouup hellohellohello helloworldhelloworld loremipsumdolorsitamet
allyourbasearebelongtous onceuponatime123 changemechangeme changemeimmediately pleasechangeme123 defaultpassword
temporarypassword adminadminadmin administratorpassword rootrootrootroot superadministrator supersecretpassword
mysecretpassword verysecurepassword longenoughpassword fifteencharacters 15characterslong mynewpassword2025
""".split()  # noqa: SIM905 - likewise
SPACED = ("correct horse battery staple", "the quick brown fox", "to be or not to be", "this is my password",
          "may the force be with you", "all your base are belong to us")  # fmt: skip


def passwords() -> Iterator[str]:
    """Give candidates of any length."""
    yield from PHRASES
    yield from SPACED
    for word in WORDS:
        for times in range(1, 6):
            yield from (word * times + tail for tail in TAILS)
    for first, second in product(WORDS, WORDS):
        yield first + second
    for row in ROWS:
        walk = row * 4
        yield from (text[:length] for text in (walk, walk[::-1], row + row[::-1]) for length in range(SHORTEST, 33))
    for character in "abcdefghijklmnopqrstuvwxyz0123456789!*.-_ ":
        yield from (character * length for length in range(SHORTEST, 33))
    for number in (*range(1940, 2036), *range(0, 10_000, 1111)):
        yield from (f"{number:04}" * times for times in (4, 5, 6))


def content() -> bytes:
    """Give the bytes of the file."""
    fitting = {password for password in passwords() if SHORTEST <= len(password) <= LONGEST}
    return b"".join(sorted({blocklists.digest(password) for password in fitting}))


if __name__ == "__main__":
    Path(__file__).with_name(blocklists.FILE).write_bytes(content())
