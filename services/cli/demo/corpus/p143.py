"""Open the archive of support mails."""
import imaplib
import os


def open_archive(host: str, user: str = "support", password: str | None = None) -> imaplib.IMAP4_SSL:
    archive = imaplib.IMAP4_SSL(host, timeout=20)
    archive.login(user, password or os.environ["ARCHIVE_PASSWORD"])
    return archive


def unread(archive: imaplib.IMAP4_SSL) -> int:
    archive.select("INBOX", readonly=True)
    _, found = archive.search(None, "UNSEEN")
    return len(found[0].split())
