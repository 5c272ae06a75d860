"""One HTML page that needs nothing else: pictures and data stand in it. All text from data is escaped."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.tasks.report.findings import Neighbors, Occurrence
from pipeline.tasks.report.tables import Table

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 50rem; padding: 1rem; color: #222;
  overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; }}
h2 {{ font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }}
nav a {{ display: inline-block; margin: .2rem .8rem .2rem 0; }}
a {{ color: #0072b2; }}
figure {{ margin: 1rem 0; }}
img {{ width: 100%; max-width: 36rem; height: auto; }}
.scroll {{ overflow-x: auto; background: linear-gradient(to left, #fff 1.5rem, #fff0) right / 3rem 100% no-repeat local,
  linear-gradient(to left, #0003, #0000) right / .8rem 100% no-repeat scroll; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; white-space: normal; min-width: 7rem; }}
blockquote, ol {{ margin: .5rem 0; }}
blockquote {{ border-left: 4px solid #e69f00; padding: .2rem 0 .2rem .8rem; }}
mark {{ background: #fbe3b0; font-weight: bold; }}
.place {{ color: #666; font-size: .85rem; }}
@media (max-width: 32rem) {{
  table {{ font-size: .85rem; }}
  th, td {{ padding: .3rem; }}
  th {{ white-space: normal; vertical-align: bottom; }}
  th:first-child, td:first-child {{ min-width: 4.5rem; }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{lead}</p>
<nav>{links}</nav>
{sections}
</body>
</html>
"""


@dataclass(frozen=True)
class Picture:
    """svg: stands in the page. png: a file beside it, `name`.png. alt: what a reader who cannot see it is told."""

    name: str
    svg: bytes
    png: bytes
    alt: str


@dataclass(frozen=True)
class Section:
    """text: plain. A picture stands above the table of its name. body: HTML that follows, escaped by its maker."""

    title: str
    text: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    body: str = ""


def page(title: str, lead: str, sections: Sequence[Section], missing: Sequence[str]) -> str:
    """Return the page. missing: what the folders did not hold, a command each."""
    parts = [_section(number, section) for number, section in enumerate(sections)]
    if missing:
        items = "".join(f"<li>{html.escape(item)}</li>" for item in missing)
        parts.append(f"<section><h2>Not in these folders</h2><ul>{items}</ul></section>")
    links = "".join(f'<a href="#s{number}">{html.escape(s.title)}</a>' for number, s in enumerate(sections))
    return _PAGE.format(title=html.escape(title), lead=html.escape(lead), links=links, sections="\n".join(parts))


def neighbors(found: Neighbors) -> str:
    """Return the sentence that was asked about, and the nearest occurrences as a list."""
    items = "".join(f"<li>{one['cosine']:.3f} {_sentence(one)}</li>" for one in found["neighbors"])
    return f"<blockquote>{_sentence(found['query'])}</blockquote><ol>{items}</ol>"


def neighbors_table(name: str, found: Neighbors) -> Table:
    rows = [[f"{o['cosine']:.6f}", o["place"], " ".join(o["words"])] for o in found["neighbors"]]
    header = ["cosine", "place", "sentence"]
    return Table(name, header, rows, [header, *rows])


def data_link(table: Table) -> str:
    """Return a link that saves the table's data as a CSV file."""
    name = html.escape(f"{table.name}.csv")
    return f'<a download="{name}" href="{_data_uri("text/csv;charset=utf-8", table.csv().encode())}">Data as CSV</a>'


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="s{number}"><h2>{html.escape(section.title)}</h2>', f"<p>{html.escape(section.text)}</p>"]
    for table in section.tables:
        parts += [_figure(picture) for picture in section.pictures if picture.name == table.name]
        parts.append(f"{_table(table)}<p>{data_link(table)}</p>")
    return "\n".join([*parts, section.body, "</section>"])


def _figure(picture: Picture) -> str:
    source = _data_uri("image/svg+xml", picture.svg)
    return f'<figure><img alt="{html.escape(picture.alt)}" src="{source}"></figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _sentence(one: Occurrence) -> str:
    words, at = one["words"], one["position"]
    before, word, after = (html.escape(" ".join(part)) for part in (words[:at], words[at : at + 1], words[at + 1 :]))
    return f'{before} <mark>{word}</mark> {after} <span class="place">{html.escape(one["place"])}</span>'


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
