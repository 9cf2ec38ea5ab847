"""What batches have taught the engine and changes bits of those to come: numbers, for a state_dict.

The rest is found anew, to the same bits: the size of a batch, which parts of it need no audit.
"""

from collections.abc import Mapping

from lowland.optim.m_sam.engine import Engine
from lowland.optim.m_sam.guesses import GUESSES

#: How many groups one part of a batch has; which of `GUESSES` holds; whether the loop over groups is taken.
AT_ONCE, GUESS, LOOP = KEYS = ("sam_at_once", "sam_guess", "sam_loop")
_BEFORE = (
    "it did when the state was saved that was loaded, for a reason that was said then (optimizer.m = optimizer.m tries "
    "the two passes again)"
)


def numbers(engine: Engine) -> dict[str, int]:
    """What a state_dict keeps of ``engine``; nothing of one that has learnt nothing."""
    learnt, found = engine.learnt, dict[str, int]()
    if learnt.at_once is not None:
        found[AT_ONCE] = learnt.at_once
    if learnt.guess != GUESSES[0]:
        found[GUESS] = GUESSES.index(learnt.guess)
    if engine.reason is not None or engine.before is not None:
        found[LOOP] = 1
    return found


def resume(engine: Engine, before: Mapping[str, int]) -> Engine:
    """``engine``, a new one, which has learnt what `numbers` said ``before``."""
    if AT_ONCE in before:
        engine.learnt.at_once = max(1, int(before[AT_ONCE]))
    guess = int(before.get(GUESS, 0))
    if guess in range(len(GUESSES)):  # another version may have had more
        engine.learnt.guess = GUESSES[guess]
    if before.get(LOOP):
        engine.before = _BEFORE
    return engine
