"""Generates the sync twin, histstore/_sync/*.py, from histstore/_async/*.py.

    python tools/unasync.py            write what changed
    python tools/unasync.py --check    write nothing; show a diff and exit 1 if a file is out of date or an orphan

The transformation works on tokens, so that a string or a name that merely contains "await" is not code to it. What it
replaces is in the tables below; whatever async word is left after that is an error and not a surprise at run time.

In the async source, `# unasync: off` and `# unasync: on`, each alone on a line, drop what stands between them.
Strings, docstrings and comments get the replacements of PROSE.

Standard library only; `ruff`, of the same environment, formats the result.
"""

from __future__ import annotations

import argparse
import difflib
import io
import keyword
import re
import subprocess
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "histstore/_async"
TARGET = "histstore/_sync"

# Pairs written by hand: the primitives that the two worlds do not share (sleep, locks, tasks, cancellation).
# Both files exist, with the same names inside; mypy and the tests, which run over both shells, hold them together.
HANDWRITTEN = frozenset({
    "compat/background.py", "compat/io.py", "compat/scope.py", "compat/tasks.py", "compat/together.py",
    "transport/commit.py", "transport/connection.py", "transport/connections.py", "transport/probes.py",
})  # fmt: skip
# What only asyncio needs: a blocking call has its connection to itself.
ASYNC_ONLY = frozenset({"transport/pool.py", "transport/wire.py"})

# Names, wherever they stand as a whole name: in code, in strings and in comments.
NAMES = {
    # ours
    "_async": "_sync",
    # the protocol of context managers and iterators
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "StopAsyncIteration": "StopIteration",
    "aiter": "iter",
    "anext": "next",
    # collections.abc and typing
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "AsyncGenerator": "Generator",  # Generator[Y, S] needs a third argument before Python 3.13: prefer AsyncIterator.
    # contextlib
    "AbstractAsyncContextManager": "AbstractContextManager",
    "AsyncExitStack": "ExitStack",
    "aclosing": "closing",
    "asynccontextmanager": "contextmanager",
    "enter_async_context": "enter_context",
    "push_async_callback": "callback",
    "push_async_exit": "push",
    # tenacity
    "AsyncRetrying": "Retrying",
}

# Generic types that stand for what awaiting them gives: the position of that argument. `Awaitable[T]` becomes `T`, and
# a union that then has a member twice keeps one: `T | Awaitable[T]` becomes `T`.
AWAITABLES = {
    "Awaitable": 0,
    "Coroutine": 2,  # Coroutine[yielded, sent, returned]
}

# Dotted names: `redis.asyncio.Redis` becomes `redis.Redis`, and `from redis.asyncio import X` `from redis import X`.
MODULES = {("redis", "asyncio"): "redis"}

# What is replaced in strings, docstrings and comments besides NAMES: code inside prose.
PROSE = [
    (re.compile(r"\basync (with|for|def)\b"), r"\1"),
    (re.compile(r"\bawait (?=[A-Za-z_][\w.]*[(\[])"), ""),  # Before a call only: "await it" is prose.
    (re.compile(r"\bredis\.asyncio\b"), "redis"),
    (re.compile(r"\btasks of one event loop\b"), "threads"),
    (re.compile(r"\bTasks may share\b"), "Threads may share"),
    *((re.compile(rf"\b{name}\b"), replacement) for name, replacement in NAMES.items()),
]

# Lint exceptions that make sense in async code only.
ASYNC_NOQA = re.compile(r"\s*# noqa: ASYNC\d+(?:, ?ASYNC\d+)*\s*$")

# Names that the result must not have: what was not replaced above needs `_io.py`, a table entry or `unasync: off`.
LEFTOVERS = frozenset({"async", "await", "asyncio", "anyio", "isawaitable", "iscoroutinefunction", *AWAITABLES, *NAMES})

HEADER = "# Generated from {source}/{name} by tools/unasync.py; do not edit.\n"

LAYOUT = frozenset(
    {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
)  # Carry no text that the spaces between tokens do not.
BLANKS = frozenset({tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT})


class UnasyncError(Exception):
    """The source holds something that this tool does not know how to turn into sync code."""


@dataclass
class Token:
    """A token with the text that stands before it: a list of them, joined, is the source again."""

    type: int
    text: str
    before: str
    line: int

    def is_name(self, *names: str) -> bool:
        """Whether this is one of these names or keywords."""
        return self.type == tokenize.NAME and self.text in names

    def is_op(self, *ops: str) -> bool:
        """Whether this is one of these operators or brackets."""
        return self.type == tokenize.OP and self.text in ops


def transform(source: str) -> str:
    """Turns async source into sync source, neither formatted nor with its imports cleaned."""
    tokens = read(drop_marked(source))
    for step in (replace_words, unwrap_awaitables, drop_parentheses):
        tokens = step(tokens)
    return "".join(token.before + token.text for token in tokens)


def read(source: str) -> list[Token]:
    """Splits source into tokens. An f-string is one STRING token on every Python (3.12 and later split it)."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(position: tuple[int, int]) -> int:
        row, column = position
        return min(starts[min(row - 1, len(lines))] + column, len(source))

    tokens: list[Token] = []
    end = fstring_start = depth = 0
    fstring_line = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, kind = offset(token.start), tokenize.tok_name[token.type]
        if kind in ("FSTRING_START", "TSTRING_START"):
            if depth == 0:
                fstring_start, fstring_line = start, token.start[0]
            depth += 1
        elif kind in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            if depth == 0:
                stop = offset(token.end)
                text = source[fstring_start:stop]
                tokens.append(Token(tokenize.STRING, text, source[end:fstring_start], fstring_line))
                end = stop
        elif depth == 0 and token.type not in LAYOUT:
            stop = offset(token.end)
            tokens.append(Token(token.type, source[start:stop], source[end:start], token.start[0]))
            end = stop
    tokens.append(Token(tokenize.ENDMARKER, "", source[end:], len(lines)))
    return tokens


def drop_marked(source: str) -> str:
    """Drops the lines from each `# unasync: off` to its `# unasync: on`, both included."""
    lines = source.splitlines(keepends=True)
    dropped: set[int] = set()
    off = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or not token.string.startswith("# unasync:"):
            continue
        row = token.start[0]
        alone = not lines[row - 1][: token.start[1]].strip()
        if token.string == "# unasync: off" and alone and not off:
            off = row
        elif token.string == "# unasync: on" and alone and off:
            dropped.update(range(off, row + 1))
            off = 0
        else:
            raise UnasyncError(f"line {row}: {token.string!r} is unknown, not alone on its line, or has no other half")
    if off:
        raise UnasyncError(f"line {off}: '# unasync: off' without '# unasync: on'")
    return "".join(line for row, line in enumerate(lines, 1) if row not in dropped)


def replace_words(tokens: list[Token]) -> list[Token]:
    """Removes `async` and `await`, and replaces names, dotted modules, and words in strings and comments."""
    result: list[Token] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.is_name("async", "await") and keyword.iskeyword(token.text):
            while tokens[index + 1].type == tokenize.NL:
                del tokens[index + 1]
            tokens[index + 1].before = token.before  # `x = await y`: y moves to where await stood.
        elif token.type == tokenize.NAME and (module := dotted_module(tokens, index)):
            parts, text = module
            result.append(Token(tokenize.NAME, text, token.before, token.line))
            index += 2 * parts - 2
        elif token.type == tokenize.NAME:
            token.text = NAMES.get(token.text, token.text)
            result.append(token)
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            if token.type == tokenize.COMMENT and ASYNC_NOQA.search(token.text):
                token.text = ASYNC_NOQA.sub("", token.text)
                token.before = token.before if token.text else ""
            for pattern, replacement in PROSE:
                token.text = pattern.sub(replacement, token.text)
            result.append(token)
        else:
            result.append(token)
        index += 1
    return result


def dotted_module(tokens: list[Token], index: int) -> tuple[int, str] | None:
    """The entry of MODULES that starts at this token: how many names it has, and what stands for them."""
    if index and tokens[index - 1].is_op("."):
        return None
    for names, text in MODULES.items():
        expected = [part for name in names for part in (name, ".")][:-1]
        if [token.text for token in tokens[index : index + len(expected)]] == expected:
            return len(names), text
    return None


def unwrap_awaitables(tokens: list[Token]) -> list[Token]:
    """Replaces `Awaitable[T]` with `T`, and `T | Awaitable[T]` with `T`."""
    index = 0
    while index < len(tokens) - 1:
        name = tokens[index]
        if not (name.is_name(*AWAITABLES) and tokens[index + 1].is_op("[")):
            index += 1
            continue
        close = matching(tokens, index + 1)
        arguments = split(tokens[index + 2 : close], ",")
        position = AWAITABLES[name.text]
        if position >= len(arguments):
            raise UnasyncError(f"line {name.line}: {name.text} with {len(arguments)} arguments")
        argument = arguments[position]
        argument[0].before = name.before
        tokens[index : close + 1] = argument
        tokens = without_doubles(tokens, index)
        # The same index again: the argument may itself start with an awaitable.
    return tokens


def without_doubles(tokens: list[Token], index: int) -> list[Token]:
    """Drops members that stand twice in the union around this token."""
    first = last = index
    while first > 0 and not (starts_type(tokens[first - 1])):
        first -= 1
        if tokens[first].is_op("]", ")"):
            first = matching_backwards(tokens, first)
    while last < len(tokens) and not ends_type(tokens[last]):
        last = (matching(tokens, last) if tokens[last].is_op("[", "(") else last) + 1
    members = split(tokens[first:last], "|")
    kept: dict[str, list[Token]] = {}
    for member in members:
        kept.setdefault("".join(token.text for token in member if token.type not in BLANKS), member)
    if len(kept) == len(members):
        return tokens
    union: list[Token] = []
    for member in kept.values():
        if union:
            union.append(Token(tokenize.OP, "|", " ", member[0].line))
        union += member
    return tokens[:first] + union + tokens[last:]


def starts_type(token: Token) -> bool:
    """Whether a type may start right after this token."""
    return token.is_op("[", "(", ",", ":", "=", "->") or token.type == tokenize.NEWLINE


def ends_type(token: Token) -> bool:
    """Whether a type ended right before this token."""
    return token.is_op("]", ")", ",", ":", "=") or token.type in (tokenize.NEWLINE, tokenize.COMMENT)


def drop_parentheses(tokens: list[Token]) -> list[Token]:
    """Drops the parentheses that `(await x.f()).y` needed: what is left is `x.f().y`."""
    index = 1
    while index < len(tokens) - 1:
        opens = tokens[index]
        before = tokens[index - 1]
        called = before.is_op(")", "]") or (before.type == tokenize.NAME and not keyword.iskeyword(before.text))
        if opens.is_op("(") and not called and before.type != tokenize.STRING:
            close = matching(tokens, index)
            inside = tokens[index + 1 : close]
            if tokens[close + 1].is_op(".", "[", "(") and is_chain(inside):
                inside[0].before = opens.before
                tokens = [*tokens[:index], *inside, *tokens[close + 1 :]]
        index += 1
    return tokens


def is_chain(tokens: list[Token]) -> bool:
    """Whether this is a name followed by attributes, calls and subscripts only."""
    if not tokens or tokens[0].type != tokenize.NAME or keyword.iskeyword(tokens[0].text):
        return False
    index = 1
    while index < len(tokens):
        if tokens[index].is_op("(", "["):
            index = matching(tokens, index) + 1
        elif tokens[index].is_op(".") and index + 1 < len(tokens) and tokens[index + 1].type == tokenize.NAME:
            index += 2
        else:
            return False
    return True


def matching(tokens: list[Token], index: int) -> int:
    """Where the bracket that opens at this index closes."""
    depth = 0
    for position in range(index, len(tokens)):
        depth += tokens[position].is_op("(", "[", "{") - tokens[position].is_op(")", "]", "}")
        if depth == 0:
            return position
    raise UnasyncError(f"line {tokens[index].line}: {tokens[index].text!r} never closes")


def matching_backwards(tokens: list[Token], index: int) -> int:
    """Where the bracket that closes at this index opens."""
    depth = 0
    for position in range(index, -1, -1):
        depth += tokens[position].is_op(")", "]", "}") - tokens[position].is_op("(", "[", "{")
        if depth == 0:
            return position
    raise UnasyncError(f"line {tokens[index].line}: {tokens[index].text!r} never opens")


def split(tokens: list[Token], separator: str) -> list[list[Token]]:
    """Splits at the separators outside brackets; a trailing one adds nothing."""
    parts: list[list[Token]] = [[]]
    index = 0
    while index < len(tokens):
        if tokens[index].is_op(separator):
            parts.append([])
            index += 1
            continue
        end = matching(tokens, index) if tokens[index].is_op("(", "[", "{") else index
        parts[-1] += tokens[index : end + 1]
        index = end + 1
    return [part for part in parts if any(token.type not in BLANKS for token in part)]


def ruff(arguments: list[str], text: str, path: str) -> str:
    """Runs ruff over a text as if it stood at this path."""
    command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "--no-cache", "--stdin-filename", path, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=ROOT)
    if done.returncode:
        raise UnasyncError(f"ruff {arguments[0]} failed:\n{done.stderr}")
    return done.stdout


def generate(source: str, name: str) -> str:
    """What histstore/_sync/<name> must hold when histstore/_async/<name> holds this source."""
    path = f"{TARGET}/{name}"
    text = HEADER.format(source=SOURCE, name=name) + transform(source)
    try:
        compile(text, path, "exec")
    except SyntaxError as error:
        raise UnasyncError(f"the result is no Python: {error}\n    {(error.text or '').strip()}") from error
    # I: the names in an import changed, and with them their order. F401: Awaitable and others are imported in vain.
    text = ruff(["check", "--fix-only", "--select", "I,F401"], text, path)
    text = ruff(["format"], text, path)
    for token in read(text):
        if token.is_name(*LEFTOVERS):
            raise UnasyncError(
                f"{token.text!r} is left over at line {token.line} of the result: "
                "give it a place in compat/io.py, a line in the tables of this tool, or put '# unasync: off' before it"
            )
    return text


def orphans(sources: set[str], targets: set[str]) -> list[str]:
    """Says which files lack their other half."""
    sources = sources - ASYNC_ONLY
    problems = [f"{TARGET}/{name} has no source {SOURCE}/{name}; delete it" for name in targets - sources]
    problems += [f"{TARGET}/{name} is written by hand and missing" for name in (HANDWRITTEN & sources) - targets]
    problems += [f"{name} is listed in HANDWRITTEN but exists in neither" for name in HANDWRITTEN - sources - targets]
    return sorted(problems)


def files(folder: Path) -> set[str]:
    """The Python files below a folder, as paths relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Runs the tool and returns its exit status."""
    parser = argparse.ArgumentParser(description="Generate histstore/_sync from histstore/_async.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something would change")
    check = parser.parse_args(arguments).check

    sources, targets = files(root / SOURCE), files(root / TARGET)
    problems = orphans(sources, targets)
    stale = 0
    for name in sorted(sources - HANDWRITTEN - ASYNC_ONLY):
        target = root / TARGET / name
        try:
            wanted = generate((root / SOURCE / name).read_text(encoding="utf-8"), name)
        except UnasyncError as error:
            problems.append(f"{SOURCE}/{name}: {error}")
            continue
        present = target.read_text(encoding="utf-8") if target.exists() else ""
        if wanted == present:
            continue
        stale += 1
        if check:
            labels = (f"{TARGET}/{name} (committed)", f"{TARGET}/{name} (generated)")
            diff = difflib.unified_diff(present.splitlines(True), wanted.splitlines(True), *labels)
            sys.stdout.writelines(diff)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(wanted, encoding="utf-8")
            print(f"wrote {TARGET}/{name}")

    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if check and stale:
        print(f"error: {stale} generated files are out of date: run `make sync`", file=sys.stderr)
    if not problems and not (check and stale):
        print(f"{TARGET}: {len(sources - HANDWRITTEN - ASYNC_ONLY)} generated files are up to date")
    return 1 if problems or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
