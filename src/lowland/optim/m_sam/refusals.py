"""Why the two passes can't be taken, or why there is no m-SAM gradient at all."""


class NotCovered(Exception):
    """The two passes can't be taken; says why. The loop over groups is right all the same."""


class Unordered(NotCovered):
    """The losses depend on what can't be given to examples: on rows in another order, or on each other."""


class Refused(ValueError):
    """There is no m-SAM gradient, by whatever way; says what to change."""


class OwnGenerator(Refused):
    """A ``torch.Generator`` in the closure, which may give other numbers in each evaluation."""


class NoGradient(RuntimeError):
    """The losses depend on none of the parameters that climb."""


class TooLarge(Exception):
    """The groups' gradients take more memory than they may."""


def raising(error: Exception, at: str, used: str) -> str:
    """In words, that the passes raise ``error`` at a line, after a use of a parameter."""
    words = next(iter(str(error).splitlines()), "")
    return f"its passes raise {type(error).__name__} at {at} after a use of {used or 'no parameter'} ({words})"
