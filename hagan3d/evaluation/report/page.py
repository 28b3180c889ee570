"""Building blocks of a report: one HTML file with embedded pictures."""

import base64
import html
from collections.abc import Iterable, Sequence

from hagan3d.evaluation.report.verdict import Verdict

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .6rem 0; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { border-bottom: 1px solid #888; font-weight: 600; }
img { max-width: 100%; margin: .4rem 0; } .bad { color: #b00020; font-weight: 600; } .good { color: #1b7a3d; }
.unclear { color: #96610a; font-weight: 600; }
.note { color: #666; font-size: .9rem; } code { font-size: .85em; word-break: break-all; }
"""


def page(sections: Iterable[str]) -> str:
    """Return a complete HTML document; empty sections are skipped."""
    head = f'<meta charset="utf-8"><title>hagan3d evaluation</title><style>{STYLE}</style>'
    body = "\n".join(section for section in sections if section)
    return f'<!doctype html>\n<html lang="en">{head}\n{body}\n</html>\n'


def picture(data: bytes | None, alt: str) -> str:
    """Return a PNG as HTML; nothing for None."""
    if data is None:
        return ""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; cells are text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def bullets(lines: Iterable[str]) -> str:
    """Return an HTML list; items are text."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def verdict_list(verdicts: Iterable[Verdict]) -> str:
    """Return verdicts as an HTML list, each in the colour of its state; nothing without any."""
    lines = "".join(f'<li class="{one.state}">{html.escape(one.text)}</li>' for one in verdicts)
    return f"<ul>{lines}</ul>" if lines else ""


def note(text: str) -> str:
    """Return a small grey paragraph of text."""
    return f'<p class="note">{html.escape(text)}</p>'
