"""Markdown extension: turn the LaTeX formulas of docstrings into MathML.

Browsers draw MathML by themselves, so the site needs no script and no network.
"""

import re
from textwrap import dedent

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

BLOCK = re.compile(r'^( *)\.\. math::\n((?:\1 +\S.*\n?|\n)+)', re.M)
INLINE = re.compile(r':math:`([^`]+)`')
# Names of several letters, such as momentum and max\_grad\_norm, but no commands.
NAME = re.compile(r'(?<![\\A-Za-z])[A-Za-z]{2,}(?:\\_[A-Za-z]+)*')


class Formulas(Extension):
    """Replace Sphinx's ``.. math::`` blocks and ``:math:`` roles."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the preprocessor, after that of fenced code.

        Args:
            md (Markdown): The converter.
        """
        md.preprocessors.register(_Replacing(md), 'formulas', 22)


class _Replacing(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        """Replace each formula with a placeholder, which Markdown fills in at the end."""
        text = '\n'.join(lines)
        text = BLOCK.sub(lambda m: f'{m[1]}{self._stored(dedent(m[2]), "block")}\n\n', text)
        return INLINE.sub(lambda m: self._stored(m[1], 'inline'), text).split('\n')

    def _stored(self, latex: str, display: str) -> str:
        latex = NAME.sub(lambda m: rf'\text{{{m[0]}}}'.replace(r'\_', '_'), latex.strip())
        latex = latex.replace(r'\,', r'\;')
        if '&' in latex:
            latex = rf'\begin{{align*}}{latex}\end{{align*}}'
        mathml = convert(latex, display=display)
        # Chrome follows the style alone.
        mathml = re.sub(r'columnalign="(\w+)"', r'style="text-align: \1"', mathml)
        return self.md.htmlStash.store(mathml)
