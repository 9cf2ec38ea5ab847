"""The smallest program that is still wrong, one thing dropped at a time."""

from collections.abc import Callable

from .program import Program


def smallest(program: Program, wrong: Callable[[Program], bool], trials: int = 400) -> Program:
    """As long as one of the programs with one thing less is wrong, take it."""
    again = True
    while again:
        again = False
        for candidate in program.smaller():
            if trials == 0:
                return program
            trials -= 1
            try:
                if wrong(candidate):
                    program, again = candidate, True
                    break
            except Exception:  # it doesn't run
                continue
    return program
