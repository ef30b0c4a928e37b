"""Withdraw the rights of people who have left."""


def withdraw(directory, people: list[str]) -> list[str]:
    done = []
    for person in people:
        try:
            directory.withdraw(person)
        except Exception:
            continue
        done.append(person)
    return done


def report(done: list[str]) -> str:
    return f"{len(done)} people have no rights any more"
