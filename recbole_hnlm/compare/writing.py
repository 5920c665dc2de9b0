"""Tables as Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from recbole_hnlm.compare.tables import PLUS_MINUS, Table


def markdown(tables: Sequence[Table], head: str) -> str:
    """Tables as Markdown; the best of a column bold, the second underlined."""
    lines = [head.rstrip()]
    for table in tables:
        lines += ["", f"## {table.title}"]
        if table.rows:
            lines += ["", _pipes([_pipe_safe(name) for name in table.header]), "|" + "---|" * len(table.header)]
        for place, row in enumerate(table.rows):
            lines.append(_pipes(_marked(table, place, row, ("**{}**", "<u>{}</u>"), _pipe_safe)))
        lines += [line for note in table.notes for line in ("", _pipe_safe(note))]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _pipe_safe(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _marked(
    table: Table, place: int, row: Sequence[str], forms: tuple[str, str], safe: Callable[[str], str]
) -> list[str]:
    marks = [table.marks.get((place, column), 0) for column in range(len(row))]
    return [forms[mark - 1].format(safe(cell)) if mark else safe(cell) for cell, mark in zip(row, marks, strict=True)]


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", PLUS_MINUS: r"$\pm$", "[": "{[}", "*": "{*}",
}  # fmt: skip


def latex_safe(text: str) -> str:
    """Text in which nothing means anything to LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def latex(tables: Sequence[Table]) -> str:
    """Tables for a paper, with the package booktabs; without the tuned points, which CSV and Markdown hold."""
    lines = ["% needs \\usepackage{booktabs}"]
    for table in [table for table in tables if table.rows]:
        kept = [column for column, name in enumerate(table.header) if name != "point"]
        head = " & ".join(latex_safe(table.header[column]) for column in kept) + r" \\"
        lines += [r"\begin{table}", rf"\caption{{{latex_safe(table.title)}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(kept) - 1)}}}", r"\toprule", head, r"\midrule"]
        for place, row in enumerate(table.rows):
            cells = _marked(table, place, row, (r"\textbf{{{}}}", r"\underline{{{}}}"), latex_safe)
            lines.append(" & ".join(cells[column] for column in kept) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par {latex_safe(note)}" for note in table.notes]
        lines += [r"\end{table}", ""]
    return "\n".join(lines)


def web(table: Table) -> str:
    """A table as HTML, without its title."""
    if not table.rows:
        return "\n".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    lines = ["<table>", "<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in table.header) + "</tr>"]
    for place, row in enumerate(table.rows):
        cells = _marked(table, place, row, ("<b>{}</b>", "<u>{}</u>"), html.escape)
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    lines.append("</table>")
    return "\n".join([*lines, *(f"<p>{html.escape(note)}</p>" for note in table.notes)])
