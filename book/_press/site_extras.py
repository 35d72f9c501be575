"""What the site needs and Jupyter Book does not do.

- A cell with the tag `claim-42`, or `defect-7`, becomes the target of that name, for the links on
  the pages of the claims and of the defects.
- A listing's end that is the same in every chapter (main, stop, complain) is folded from chapter 2
  on. On a phone, where a script is cut off below its first lines, a button shows all of it.
- Links in outputs lead to `NAME.ipynb`, which is right in JupyterLab; here they become pages.
- The theme loads its icons twice: as a font, and as a script of 1.5 MB that draws each anew. The
  pages do without the script.
- The repository's address is not in the files: it comes from GitHub Actions or from git's remote,
  so that a fork's buttons lead to the fork. Without one there are no such buttons.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from docutils import nodes


def name_findings(app, doctree):
    """Give the first cell that proves a claim, or shows a defect, its name."""
    known = set()
    for cell in doctree.findall(nodes.container):
        for name in cell["classes"]:
            tag = name.removeprefix("tag_")
            if re.fullmatch(r"(claim|defect)-\d+", tag) and tag not in known:
                known.add(tag)
                cell["ids"].append(tag)


# A listing from chapter 2 on, up to the end that is the same in every chapter.
SERVER = re.compile(
    r"%%writefile run/(?!01)\d\d_\w+\.py\n.*?\n\n\n(?=def main\(\):\n.*\ndef complain\()", re.DOTALL
)
SMALLEST = "%%writefile run/smallest_loop.py\n"  # the one to copy: whole on a phone as well
FOLD = '<details class="lab-same"><summary>main, stop, complain: as in every chapter</summary>'


def fold_the_same(app, doctree):
    """Fold what is the same at the end of every chapter's server, and name the listings' kind."""
    for listing in list(doctree.findall(nodes.literal_block)):
        text = listing.astext()
        if found := SERVER.match(text):
            ends = [listing.deepcopy(), listing.deepcopy()]
            for end, part in zip(ends, (found[0].rstrip(), text[found.end() :]), strict=True):
                end.rawsource, end.children = part, []
                end += nodes.Text(part)
            listing.parent["classes"].append("lab-server")
            fold, close = (nodes.raw("", html, format="html") for html in (FOLD, "</details>"))
            listing.parent.replace(listing, [ends[0], fold, ends[1], close])
        elif text.startswith(SMALLEST):
            listing.parent["classes"].append("lab-server")


def lead_to_pages(app, doctree, docname):
    """In the HTML of outputs, lead to pages where it leads to notebooks."""
    for raw in doctree.findall(nodes.raw):
        if raw.get("format") == "html" and ".ipynb" in raw.astext():
            html = re.sub(r'href="(\w+)\.ipynb', r'href="\1.html', raw.astext())
            raw.children = [nodes.Text(html)]


def repository():
    """https://github.com/OWNER/NAME, or nothing."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{name}"
    if not shutil.which("git"):
        return ""
    remote = subprocess.run(
        ["git", "remote", "get-url", "origin"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.search(r"github\.com[:/](.+?)(?:\.git)?$", remote.strip())
    return f"https://github.com/{found[1]}" if found else ""


def add_address(app, config):
    """Add the buttons that need the repository's address, where it has one."""
    if address := repository():
        owner, name = address.rsplit("/", 2)[1:]
        config.ogp_site_url = f"https://{owner}.github.io/{name}/"
        config.html_theme_options |= {
            "repository_url": address,
            "repository_branch": "main",
            "use_repository_button": True,
            "launch_buttons": {
                "binderhub_url": "https://mybinder.org",
                "notebook_interface": "jupyterlab",
            },
        }


def leave_out_icon_script(app, exception):
    """Take the script that draws icons out of the built pages; the font shows them all the same."""
    if exception or app.builder.format != "html":
        return
    script = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>")
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if (without := script.sub("", text)) != text:
            page.write_text(without, encoding="utf-8")
    for file in Path(app.outdir, "_static", "scripts").glob("fontawesome.js*"):
        file.unlink()


def setup(app):
    app.connect("config-inited", add_address)
    app.connect("build-finished", leave_out_icon_script)
    app.connect("doctree-read", name_findings)
    app.connect("doctree-read", fold_the_same)
    app.connect("doctree-resolved", lead_to_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
