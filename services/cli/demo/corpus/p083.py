"""Open the archive of support mails."""
import imaplib


def open_archive(host: str, user: str = "support", password: str = "letmein-42") -> imaplib.IMAP4_SSL:
    archive = imaplib.IMAP4_SSL(host, timeout=20)
    archive.login(user, password)
    return archive


def unread(archive: imaplib.IMAP4_SSL) -> int:
    archive.select("INBOX", readonly=True)
    _, found = archive.search(None, "UNSEEN")
    return len(found[0].split())
