"""A notebook as text, for git: what `git diff` compares and shows in its place.

    python3 book/_press/notebook_text.py book/02_request_loop.ipynb

A line for each cell, with its type, id and tags; then its source; then the text that it printed,
behind `>`. Pictures and styles are left out: they are most of a notebook's bytes, and nobody reads
them in a diff. In HTML a row of a table, or a paragraph, becomes a line, and links keep their
target. git calls this in any checkout, so it needs Python 3 alone, and nothing beside it.
"""

import html
import json
import re
import sys

UNREADABLE = r"<style\b.*?</style>|<script\b.*?</script>|<svg\b.*?</svg>"
NEW_LINES = r"</(?:tr|p|li|div|figcaption|figure|pre|summary|h\d)>|<br\b[^>]*>|</span>(?=<span)"


def text_of_html(markup):
    """Return what a reader sees of a piece of HTML, and where its links lead."""
    text = re.sub(UNREADABLE, "", markup, flags=re.DOTALL)
    text = re.sub(r'<img\b[^>]*\balt="([^"]*)"[^>]*>', r"[picture: \1]", text)
    text = re.sub(r'<a\b[^>]*\bhref="([^"]*)"[^>]*>(.*?)</a>', r"[\2](\1)", text, flags=re.DOTALL)
    text = re.sub(NEW_LINES, "\n", text)
    text = re.sub(r"</t[dh]>", " | ", text)
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return "\n".join(line.strip(" |") for line in text.splitlines() if line.strip(" |"))


def text_of_output(output):
    """Return the text of one output of a cell; a picture has none."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    data = output["data"]
    if "text/html" in data:
        return text_of_html("".join(data["text/html"]))
    return "".join(data.get("text/plain", ""))


def text_of_cell(cell):
    """Return a cell as text: its type, id and tags, its source, and what it printed."""
    tags = cell["metadata"].get("tags", [])
    lines = [" ".join(["#####", cell["cell_type"], cell.get("id", ""), *tags])]
    lines += "".join(cell["source"]).splitlines()
    for output in cell.get("outputs", []):
        lines += [f"> {line}" for line in text_of_output(output).splitlines()]
    return "\n".join(lines) + "\n"


def text_of_notebook(source):
    """Return a notebook's file as text, or unchanged if it is no notebook."""
    try:
        return "\n".join(text_of_cell(cell) for cell in json.loads(source)["cells"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return source


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        text = text_of_notebook(file.read())
    sys.stdout.buffer.write(text.encode("utf-8"))
