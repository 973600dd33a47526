"""MkDocs hook: add the pages beside ``docs/`` to the site, README.md as the first page.

Links between these pages and ``docs/`` work on a repository page; for the site they are rewritten.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from site_math import Formulas

PAGES = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'CONTRIBUTING.md',
    'CHANGELOG.md': 'CHANGELOG.md',
}
LINKED = ('CITATION.cff', 'LICENSE')


def on_config(config: MkDocsConfig) -> None:
    """Add the formulas to the Markdown that pages and docstrings are written in.

    Args:
        config (MkDocsConfig): Configuration of the site.
    """
    config.markdown_extensions.append(Formulas())


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and files beside ``docs/``.

    Args:
        files (Files): Files of ``docs/``.
        config (MkDocsConfig): Configuration of the site.

    Returns:
        Files: The same, extended in place.
    """
    root = Path(config.config_file_path).parent
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(root / name).read_text()))
    for name in LINKED:
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Rewrite links that leave or enter ``docs/``.

    Args:
        markdown (str): A page.

    Returns:
        str: The page with links as the site has them.
    """
    return re.sub(r'\]\((?:docs/|\.\./)', '](', markdown).replace('](README.md', '](index.md')


def on_page_content(html: str, **_: object) -> str:
    """Strip Sphinx roles, such as ``:class:``, from docstrings.

    Args:
        html (str): A page without its frame.

    Returns:
        str: The page with plain code in place of roles.
    """
    return re.sub(r':(?:class|func|meth|mod):(?=<code>)', '', html)
