"""Add the repository's Markdown, and every file that it links to, to the MkDocs site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[3]
PAGES = (
    "*.md",
    "*/README.md",
    "sf_*/doc/**/*.md",
    "sf_bringup/config/**/*.md",
    "tests/*/README.md",
)
_LINK = re.compile(r"\]\(([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of the site: assets, pages, and what the pages link to."""
    pages = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    linked = {
        target
        for page in pages
        for link in _LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in link
        and (target := (page.parent / link).resolve()).is_file()
        and target.is_relative_to(ROOT)
    }
    for path in sorted({*pages, *linked}):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
