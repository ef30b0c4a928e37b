"""Convert office documents to PDF."""
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Converter:
    program: str = "/usr/bin/soffice"
    seconds: int = 120

    def convert(self, document: Path, target: Path) -> Path:
        line = " ".join([self.program, "--headless", "--convert-to pdf", "--outdir", str(target), str(document)])
        subprocess.check_call(line, shell=True, timeout=self.seconds)
        return target / f"{document.stem}.pdf"

    def convert_all(self, folder: Path, target: Path) -> list[Path]:
        return [self.convert(document, target) for document in sorted(folder.glob("*.odt"))]
