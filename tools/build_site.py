"""Build the documentation into site/: python tools/build_site.py [FOLDER]. No network is needed.

Pages, notebooks and what they link to are laid out in build/pages as in the repository, and zensical makes the site of
them. It fails for a link that leads nowhere, a page that the navigation leaves out, and a page that loads anything from
another host.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import yaml

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
COPIED = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "NOTICE",
    "docs",
    "benchmarks",
    "tools",
    "Makefile",
)
_LINK = re.compile(r"""<(?:a|link)\s[^>]*?href=["']?([^"'\s>]+)|\ssrc=["']?([^"'\s>]+)""")
_LOADS = re.compile(
    r"""(?:<(?:script|img|iframe|source)\s[^>]*?src=|<link\s(?![^>]*rel=["']?canonical)[^>]*?href=|url\(|@import\s+)"""
    r"""["']?((?:https?:)?//[^"'\s>)]+)"""
)


def main(target: Path) -> None:
    lay_out()
    if target.exists():
        shutil.rmtree(target)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    stray = {p.relative_to(PAGES).as_posix() for p in (PAGES / "docs").rglob("*.md")} - {*pages_of(config["nav"])}
    if stray:
        sys.exit(f"not in the navigation of mkdocs.yml: {', '.join(sorted(stray))}")
    build(target)
    faults = [*dead_links(target), *foreign_loads(target)]
    if faults:
        sys.exit("\n".join(faults))
    print(f"{len([*target.rglob('*.html')])} pages: {target / 'index.html'}")
    print(f"searching needs a server: python -m http.server --directory {target}")


def lay_out() -> None:
    """Fill build/pages anew. A notebook also becomes a page."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, PAGES / name)
    for notebook in PAGES.glob("docs/notebooks/*.ipynb"):
        notebook.with_suffix(".md").write_text(page_of(notebook), encoding="utf-8")


def page_of(notebook: Path) -> str:
    """The cells of a notebook as Markdown, and where to get it behind the title. A cell's metadata may name the picture
    that stands for its output."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        if picture := cell["metadata"].get("picture"):
            parts.append(f"![What the cell above shows](../pictures/{picture})")
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title, f"[Download this notebook]({notebook.name})", rest.strip(), *parts[1:]]) + "\n"


def pages_of(nav: object) -> Iterator[str]:
    """The files that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for entry in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from pages_of(entry)


def build(target: Path) -> None:
    """Run zensical, which checks the links between pages and their sections."""
    own = ROOT / "build" / "mkdocs.yml"
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    own.write_text(settings.replace("build/pages", "pages"), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(own)]
    done = subprocess.run(command, cwd=own.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        colour = r"\x1b\[[0-9;]*m"
        sys.exit(re.sub(colour, "", done.stdout + done.stderr).partition("Traceback")[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(own.parent / "site", target)


def dead_links(site: Path) -> Iterator[str]:
    """Links and pictures inside the site that are not there."""
    for page in sorted(site.rglob("*.html")):
        for groups in _LINK.findall(page.read_text(encoding="utf-8")):
            link = unquote("".join(groups)).split("#")[0].split("?")[0]
            if not link or re.match(r"[a-z]+:|//|/", link):
                continue
            if not (page.parent / link).exists():
                yield f"{page.relative_to(site)}: {link} is not in the site"


def foreign_loads(site: Path) -> Iterator[str]:
    """Scripts, styles, fonts and pictures of other hosts."""
    for file in sorted(path for path in site.rglob("*") if path.suffix in (".html", ".css")):
        for address in sorted({*_LOADS.findall(file.read_text(encoding="utf-8"))}):
            yield f"{file.relative_to(site)} loads {address}"


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT / "site")
