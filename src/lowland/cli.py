"""The entry point: hands the arguments to `lowland.commands`, and turns errors into one line and an exit code.

The handler of Ctrl-C is installed before torch is imported, which takes seconds.
"""

import sys
from collections.abc import Sequence

from lowland import interrupts

_READER_GONE = 141  # 128 + SIGPIPE, as a shell reports a program that wrote to a closed pipe


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and exit code 2."""
    watched = interrupts.Interrupts()
    try:
        watched.watch()
        code = _watched_main(watched)
    except KeyboardInterrupt:  # while an earlier error was being printed
        code = _interrupted()
    watched.end(code)
    from lowland.launched import end

    end(code)


def _watched_main(watched: interrupts.Interrupts) -> int:
    import os
    import traceback

    from lowland import errors, launched, patience, streams

    streams.prepare()
    explained = False
    try:
        try:
            os.getcwd()
        except FileNotFoundError:  # torch can't be imported without a current folder
            raise errors.SettingError("the folder that this was started in is gone: cd to one that exists") from None
        from lowland import commands

        code = commands.call(sys.argv[1:])
    except SystemExit:
        raise
    except BaseException as error:
        patience.end_all()
        # Libraries turn KeyboardInterrupt into other exceptions: after Ctrl-C, every error counts as an interrupt.
        interrupted = watched.seen or isinstance(error, KeyboardInterrupt)
        ending = _interrupted() if interrupted else _explained(error)
        if ending is None and not launched.among_others():
            raise
        if ending is None:
            traceback.print_exc()
        code, explained = ending or 1, True
    failure = streams.finish()
    return code if failure is None or explained else _unwritten(failure)


def _explained(error: BaseException) -> int | None:
    """Print what the user can do about ``error``; the exit code, or None for a bug, which keeps its traceback."""
    from lowland import errors, launched, streams

    first = next(iter(str(error).splitlines()), "")
    text = f"{type(error).__name__} {error}"
    match error:
        case errors.ElsewhereError():
            return 2
        case errors.UsageError():  # every process of a run meets it: only the first prints it
            return 2 if launched.quiet() else _fail(str(error))
        case errors.ExperimentError():
            return _fail(str(error), error.frames)
        case errors.LowlandError():
            return _fail(str(error))
        case BrokenPipeError() if streams.reader_gone():
            return _READER_GONE
        case OSError():
            where = f" ({error.filename})" if error.filename else ""
            what = f"{error.strerror or error}{where}"
            return _fail(f"{what}: mend that and run the same command; it goes on where it stopped")
        case UnicodeEncodeError():
            return _fail(f"{error.object!r} is no text that can be written: choose a name in UTF-8")
        case _ if errors.is_memory(error):
            return _fail(
                f"out of memory{f' ({first})' if first else ''}: free some, or try a smaller scale or settings"
            )
        case RuntimeError() if "start new thread" in text:
            return _fail("the system grants no more threads or processes: end some, or raise the limit (ulimit -u)")
        case RuntimeError() | TypeError() if "MPS" in text:
            return _fail(f"an Apple GPU (mps) can't do this ({first}): use --device cpu")
    return None


def _unwritten(failure: OSError) -> int:
    """The exit code when stdout could not be written; prints why, unless its reader has closed the pipe."""
    if isinstance(failure, BrokenPipeError):
        return _READER_GONE
    return _fail(f"the output can't be written ({failure.strerror or failure}): make room, or send it elsewhere")


def _interrupted() -> int:
    from lowland.launched import quiet

    if not quiet():
        _fail(interrupts.TEXT.removeprefix("lowland: "))
    return interrupts.CODE


def _fail(message: str, before: Sequence[str] = ()) -> int:
    """Print one line on stderr, and what is to stand ``before`` it, if it can still be written; the exit code."""
    from lowland.streams import one_line

    try:
        print("".join(before), end="", file=sys.stderr)
        print(f"lowland: {one_line(message)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        return _READER_GONE
    except OSError:
        pass  # stderr can't be written: the exit code still tells
    return 2


if __name__ == "__main__":
    main()
