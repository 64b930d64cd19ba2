"""Signals whose handler raises, at a chosen bytecode of a call.

CPython runs a signal's handler where it looks for signals: when it enters a function, when it jumps back, when it
returns from a call of C code, and inside some C code. What counts the bytecodes of a call here marks a signal as
received before the chosen one. It does so in C, after it has switched itself off, so the handler runs where the
interpreter itself looks next, and nowhere else.
"""

from __future__ import annotations

import _thread
import dis
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType
from typing import Any, Final

SIGNAL: Final = signal.SIGUSR1

# None of these lets CPython look for signals: one that comes before them is one that comes before what follows.
_QUIET: Final = frozenset(
    dis.opmap[name]
    for name in (
        "CACHE", "COPY", "COPY_FREE_VARS", "EXTENDED_ARG", "KW_NAMES", "LOAD_ASSERTION_ERROR", "LOAD_CLOSURE",
        "LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST", "LOAD_GLOBAL", "MAKE_CELL",
        "NOP", "POP_EXCEPT", "POP_TOP", "PUSH_EXC_INFO", "PUSH_NULL", "RETURN_CONST", "RETURN_VALUE", "STORE_DEREF",
        "STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST", "SWAP",
    )
    if name in dis.opmap
)  # fmt: skip


class TimeLimitError(Exception):
    """What a task queue raises in a worker that takes too long."""


def _unless_ours(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Returns a hook for errors that nobody can be told of, without ours.

    CPython swallows what a handler raises in a finalizer, and cbor2 what is raised while it asks whether a list is a
    mapping. The call goes on as if there had been no signal.
    """

    def told(args: Any) -> None:
        if args.exc_type is not TimeLimitError:
            hook(args)

    return told


class _Traced:
    """Reports bytecodes by `sys.settrace`: Python 3.11."""

    def __init__(self, due: Callable[[CodeType, int], bool]) -> None:
        self._due = due
        # One object throughout: CPython 3.11 borrows it, and frees it too early where each time another one is set.
        self._tracer = self._trace

    def start(self) -> None:
        sys.settrace(self._tracer)

    def resume(self, frame: FrameType | None) -> None:
        """Starts in the midst of a call: frames that exist are asked for their bytecodes, too."""
        while frame is not None and frame.f_code is not Tripwire.run.__code__:
            frame.f_trace, frame.f_trace_opcodes = self._tracer, True
            frame = frame.f_back
        self.start()

    def stop(self) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode" and self._due(frame.f_code, frame.f_lasti):
            return None
        return self._tracer


class _Monitored:
    """Reports bytecodes by `sys.monitoring`, without the gaps that opcode events have in 3.13."""

    def __init__(self, due: Callable[[CodeType, int], bool]) -> None:
        self._due = due
        self._tool = 4

    def start(self) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
        if monitoring.get_tool(self._tool) is None:
            monitoring.use_tool_id(self._tool, "tripwire")
        monitoring.register_callback(self._tool, monitoring.events.INSTRUCTION, self._due)
        monitoring.set_events(self._tool, monitoring.events.INSTRUCTION)

    def resume(self, _frame: FrameType | None) -> None:
        self.start()

    def stop(self) -> None:
        sys.monitoring.set_events(self._tool, 0)  # type: ignore[attr-defined]


class Tripwire:
    """Raises TimeLimitError in a call, by a signal that comes before its n-th bytecode; once more if asked to.

    Args:
        after: n.
        again: Before which bytecode after the first error the second signal comes; 0: there is none.

    Attributes:
        fired: How often the handler has raised.
    """

    def __init__(self, after: int, again: int = 0) -> None:
        self._left = after
        self._again = again
        self._trip: defaultdict[int, None] = defaultdict(partial(_thread.interrupt_main, SIGNAL))
        self._bytecodes: Any = (_Traced if sys.version_info < (3, 12) else _Monitored)(self._due)
        self.fired = 0

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Installs the handler. Bytecodes are counted in what `run` calls."""
        before, hook = signal.signal(SIGNAL, self._handle), sys.unraisablehook
        sys.unraisablehook = _unless_ours(hook)
        try:
            yield
        finally:
            self._bytecodes.stop()
            signal.signal(SIGNAL, before)
            sys.unraisablehook = hook

    def run(self, call: Callable[[], Any]) -> Any:
        """Calls `call`, and counts its bytecodes."""
        self._bytecodes.start()
        try:
            return call()
        finally:
            self._bytecodes.stop()

    def _due(self, code: CodeType, offset: int) -> bool:
        """Counts a bytecode. If it is the one, marks the signal as received; nothing here looks for one after that."""
        if code.co_code[offset] in _QUIET or code in _OURS:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._bytecodes.stop()
        return self._trip[self.fired] is None

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        self.fired += 1
        if self._again:
            self._left, self._again = self._again, 0
            self._bytecodes.resume(frame)
        raise TimeLimitError


_OURS: Final = frozenset(
    method.__code__
    for method in (Tripwire._handle, Tripwire.run, _Traced.stop, _Traced.start, _Monitored.stop, _Monitored.start)
)
