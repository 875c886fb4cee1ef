"""The README and the pages of docs/ as the code blocks that stand in them.

A block is fenced and has a language. An HTML comment right above it says what it needs:

    <!-- test: file conf/optimizer/mine.yaml -->   the block is that file, for the page's commands
    <!-- test: with model, params -->              these names exist before the block runs
    <!-- test: in a copy of the tree -->           another test runs it, in a copy of the repository
    <!-- test: on 2 processes -->                  another test runs it, after those above
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from tests.conftest import ROOT

#: Pages whose code is run. Those of single optimizers and schedules are found by being there.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"bash", "sh", "console", "python", "yaml", "text", "diff"}
MARK = re.compile(r"<!-- test: (.+?) -->")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*).*\n(?P<code>(?:.*\n)*?)(?P=indent)```$", re.M
)
#: A command that stands indented instead of fenced.
INDENTED = re.compile(r"^(?:    |  )((?:python (?:train|scripts/\w+)\.py|lit-optim)\b.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """A code block of a page, and what the comment above it says."""

    page: str
    line: int
    language: str
    code: str
    file: str | None = None
    names: tuple[str, ...] = ()
    in_a_copy: bool = field(default=False)
    processes: int = 0

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command line that a page shows, with the output below it if the page shows one."""

    page: str
    line: int
    words: tuple[str, ...]
    output: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)[:60]}"


def read_blocks(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page in their order.

    Raises:
        ValueError: a block without a known language, or a mark that is not known.
    """
    blocks = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        language = match["language"]
        if language not in LANGUAGES:
            raise ValueError(f"{page}:{line}: a block needs a language of {sorted(LANGUAGES)}")
        above = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        marked = MARK.fullmatch(above.strip())
        mark = marked[1] if marked else ""
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M)
        kind, _, rest = mark.partition(" ")
        if mark == "in a copy of the tree":
            blocks.append(Block(page, line, language, code, in_a_copy=True))
        elif kind == "file":
            blocks.append(Block(page, line, language, code, file=rest))
        elif kind == "on":
            number, _, _ = rest.partition(" ")
            blocks.append(Block(page, line, language, code, processes=int(number)))
        elif kind in ("with", ""):
            names = tuple(rest.split(", ")) if rest else ()
            blocks.append(Block(page, line, language, code, names=names))
        else:
            raise ValueError(f"{page}:{line}: unknown mark {mark!r}")
    return blocks


def read_commands(text: str, page: str) -> list[Command]:
    """The command lines of a page: of blocks of bash and console, and indented ones."""
    commands = []
    for block in read_blocks(text, page):
        if block.in_a_copy:
            continue
        if block.language in ("bash", "sh"):
            lines = block.code.replace("\\\n", " ").splitlines()
            commands += [
                Command(page, block.line, words)
                for line in lines
                if (words := tuple(shlex.split(line, comments=True)))
            ]
        elif block.language == "console":
            for part in re.split(r"^\$ ", block.code, flags=re.M)[1:]:
                line, _, output = part.partition("\n")
                commands.append(Command(page, block.line, tuple(shlex.split(line)), output))
        elif block.language == "text":
            commands += [
                Command(page, block.line, tuple(shlex.split(re.split(r" {2,}", line)[0])))
                for line in INDENTED.findall(block.code)  # an explanation may stand beside it
            ]
    outside = FENCE.sub("", text)
    commands += [
        Command(page, 0, tuple(shlex.split(line, comments=True)))
        for line in INDENTED.findall(outside)
    ]
    return commands


TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in PAGES}
BLOCKS: list[Block] = []
COMMANDS: list[Command] = []
#: Page -> what cannot be read in it; a test reports it, so that the other pages are still tested.
FAULTS: dict[str, str] = {}
for _page, _text in TEXTS.items():
    try:
        BLOCKS += read_blocks(_text, _page)
        COMMANDS += read_commands(_text, _page)
    except ValueError as error:
        FAULTS[_page] = str(error)
