"""The door of the command line: what a command ends with, whatever it meets. The commands are in `lowland.commands`.

Next to nothing is loaded before Ctrl-C is in good hands: torch takes seconds.
"""

import sys

from lowland import interrupts

_READER_GONE = 141  # what a program ends with that the system ends for writing to a closed pipe


def main() -> None:
    """Run the command line; an error that the user can mend is one line on stderr and exit code 2."""
    watched = interrupts.Interrupts()
    try:
        watched.watch()
        code = _watched_main(watched)
    except KeyboardInterrupt:  # between two of the places below
        code = interrupts.CODE
    watched.end(code)
    sys.exit(code)


def _watched_main(watched: interrupts.Interrupts) -> int:
    from lowland import streams

    streams.prepare()
    try:
        code = _run()
    except BaseException as error:
        # Whatever comes after Ctrl-C comes of it: libraries turn KeyboardInterrupt into exceptions of their own.
        if isinstance(error, KeyboardInterrupt) or (watched.seen and not isinstance(error, SystemExit)):
            code = _interrupted()
        elif isinstance(error, BrokenPipeError) and streams.reader_gone():
            code = _READER_GONE
        else:
            raise
    failure = streams.finish()
    if isinstance(failure, BrokenPipeError):
        return _READER_GONE
    if failure is not None:
        code = _fail(f"the output can't be written: {failure.strerror or failure}")
        streams.finish()
    return code


def _run() -> int:
    from lowland import commands
    from lowland.errors import ElsewhereError, LowlandError
    from lowland.launched import quiet

    try:
        return commands.call(sys.argv[1:])
    except ElsewhereError:
        return 2
    except LowlandError as error:
        return _fail(str(error))
    except commands.UsageError as error:  # what each process of a run would say: the first does
        return 2 if quiet() else _fail(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(
            f"{error.strerror or error}{where}: mend that and run the same command; it goes on where it stopped"
        )
    except UnicodeEncodeError as error:
        return _fail(f"{error.object!r} is no text that can be written: choose a name in UTF-8")
    except (MemoryError, RuntimeError, TypeError) as error:
        text = f"{type(error).__name__} {error}"
        first = next(iter(str(error).splitlines()), "")
        if isinstance(error, MemoryError | RuntimeError) and "memory" in text.lower():
            return _fail(f"out of memory ({first}): try a smaller scale or settings")
        if "MPS" in text:
            return _fail(f"an Apple GPU (mps) can't do this ({first}): use --device cpu")
        raise


def _interrupted() -> int:
    from lowland.launched import quiet

    if not quiet():
        _fail(interrupts.TEXT.removeprefix("lowland: "))
    return interrupts.CODE


def _fail(message: str, code: int = 2) -> int:
    """One line on stderr, whatever was under way there; a reader who is gone doesn't get it."""
    from lowland.streams import one_line

    try:
        print(f"lowland: {one_line(message)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        return _READER_GONE
    except OSError:
        pass  # there is nowhere left to say it; the exit code does
    return code


if __name__ == "__main__":
    main()
