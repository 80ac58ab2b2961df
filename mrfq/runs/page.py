"""The page of a run: what it found, for people, in one file that needs nothing else."""

from __future__ import annotations

import datetime
from typing import Any

from mrfq.compare.report import environment, resource
from mrfq.compare.tables import number
from mrfq.files import write_atomically
from mrfq.runs.folder import RunFolder


def write_template(folder: RunFolder[Any], package: str, template: str, **content: Any) -> None:
    """Write the page of a folder from a template of a package, which also gets settings, date and style."""
    content |= {
        "number": number,
        "settings": [line.split(" = ", 1) for line in folder.config.read_text("utf-8").splitlines()],
        "date": datetime.date.today().isoformat(),
        "css": resource("report.css"),
        "js": resource("report.js"),
    }
    write_atomically(folder.page, environment(package).get_template(template).render(content))
