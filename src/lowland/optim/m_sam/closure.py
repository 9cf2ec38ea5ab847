"""The closure as it runs in a pass: what is followed, what was decided of its tensors, and why it can't be taken."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from lowland.optim.m_sam.dependence import Dependence
from lowland.optim.m_sam.functions import check_functions
from lowland.optim.m_sam.lines import line
from lowland.optim.m_sam.places import Along, Mixed, Owners, Place
from lowland.optim.m_sam.reads import Reads
from lowland.optim.m_sam.refusals import NoGradient, NotCovered, Refused, Unordered, raising
from lowland.optim.m_sam.rows import rows_of
from lowland.optim.m_sam.watched import Derived, Watched, followed_here
from lowland.values import Tree

T = TypeVar("T")
#: A question: of what kind it is, on what in words, and the forms of the tensors that it is about.
Question = tuple[str, str, tuple[object, ...]]
#: Yes or no, or a dimension, if there is one, or rows that are owned as data says.
Decision = bool | int | Along | None


@dataclass(frozen=True)
class Rows:
    """Where examples are in the results of a function without a rule.

    Attributes:
        dim: along which dimension.
        inner: how many rows an example has there.
        strides: of each result.
    """

    dim: int = 0
    inner: int = 0
    strides: list[tuple[int, ...]] = field(default_factory=list)


#: By functions without a rule, and the forms of their arguments.
Inner = dict[object, Rows]

OTHERWISE = "a reentrant checkpoint does something else in backward than in forward"
#: A question that had several answers.
_UNSURE = Mixed("several answers")
_CHANGED = "the closure does something else in the second pass than in the first"


@dataclass
class Seen:
    """What was noticed of the closure.

    Attributes:
        uses: what parameters were used in, as (function, name of the parameter).
        where: the parameter that was used last, in words.
        autocast: whether autocast was on.
        normalized: batch norms that took the statistics of groups, one for each use.
        inner: see `Inner`.
        guessed: whether another `Guess` would have made a difference.
        odd: the first input that has another number of rows, in words.
        entries: while the closure runs, those of parameters that are taken one by one, as the groups have them, with
            gradients and without.
        packed: while the closure runs, what the last recurrent layer got, if that was packed.
        lent: while the closure runs, tensors that were there before it, to which what parameters give was written.
    """

    uses: set[tuple[str, str]] = field(default_factory=set)
    where: str = ""
    autocast: bool = False
    normalized: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=dict)
    guessed: bool = False
    odd: str = ""
    entries: dict[tuple[Tensor, bool], tuple[Tensor, ...]] = field(default_factory=dict)
    packed: PackedSequence | None = None
    lent: list[Derived] = field(default_factory=list)

    def said_of(self, stop: NotCovered) -> NotCovered:
        """``stop``, with `odd` beside it."""
        return type(stop)(f"{stop} ({self.odd})") if self.odd else stop


class Closure:
    """The closure in the first pass.

    Args:
        examples: how many the batch has, as far as is known.
        names: of all parameters that are watched.
        parted: whether it matters where the examples are: one group alone may have its rows anywhere.
        sure: whether the batch is known to have so many examples.
    """

    def __init__(self, examples: int, names: dict[Tensor, str], parted: bool, sure: bool = True):
        self.examples, self.names, self.parted, self.sure = examples, names, parted, sure
        #: Where the examples are in what depends on parameters.
        self.dependence = Dependence(examples)
        self.seen = Seen()
        #: Whether the closure is running, and why it can't be covered, if so.
        self.in_closure = False
        self.stopped: NotCovered | None = None
        #: Whether autograd is calling a part of the closure again.
        self.recomputing = False
        #: What was decided of inputs, in order, and by what.
        self.decided: list[tuple[Question, Decision]] = []
        self.decisions: dict[Question, Decision | Mixed] = {}

    # Running it.

    @contextmanager
    def following(self, constants: list[Tensor]) -> Iterator[None]:
        """Inside, operations are followed; ``constants`` have no rows. Raises NotCovered if they can't be."""
        self.decided, self.decisions = [], {}
        with self.dependence:
            self.dependence.labels.set_constant(constants)
            self.dependence.labels.hide(p for p in self.names if type(p) is Watched)
            with self._running():
                yield

    @contextmanager
    def _running(self) -> Iterator[None]:
        self.in_closure, self.stopped = True, None
        try:
            yield
        finally:
            self.in_closure, self.seen.packed = False, None
            self.seen.entries.clear()
            while self.seen.lent:
                self.seen.lent.pop().is_plain_again()
        stopped, self.stopped = self.stopped or self.dependence.labels.stopped, None
        if stopped is not None:
            raise stopped

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, autograd calls a part of the closure again; raises NotCovered if it can't be followed."""
        before, self.recomputing = self.recomputing, True
        try:
            with followed_here(), Reads(self.dependence), self._followed_again():
                yield
        finally:
            self.recomputing = before

    def _followed_again(self) -> AbstractContextManager[None]:
        return nullcontext() if self.dependence.active else self.dependence.resumed()

    def or_plain(self, watched: Callable[[], T], plain: Callable[[], T]) -> T:
        """``watched()``; once that can't be done, ``plain()`` to the end of the closure, which is refused then.

        What the closure changes for a while, ``model.eval()`` say, it must be able to change back.
        """
        if self.stopped is not None:
            return plain()
        if not self.in_closure:
            return watched()
        try:
            return watched()
        except (Refused, NoGradient):
            raise
        except NotCovered as stop:
            self.stopped = self.dependence.labels.stopped or stop
            return plain()
        except Exception as error:
            out = plain()  # which raises it, if it is the closure's own
            self.stopped = NotCovered(raising(error, line(), self.seen.where))
            return out

    # What is noticed without an operation, for `unseen`.

    def cannot(self, why: str) -> None:
        """Take note that the two passes can't be taken; ``why`` has a place for the line."""
        stop = NotCovered(why.format(line()))
        if not self.in_closure:
            raise stop
        self.stopped = self.stopped or self.dependence.labels.stopped or stop

    def imported(self, value: Tensor) -> None:
        """Look whether ``value``, which came without an operation, lies in memory that depends on parameters."""
        self.dependence.labels.look_for_aliases(value)

    def leaves(self, value: object, why: str) -> None:
        """Take note that ``value`` leaves torch, which is refused if it depends on parameters."""
        self.dependence.refuse(value, why)

    def unread(self, call: Callable[[], T]) -> T:
        """``call()``, which reads values and decides nothing by them."""
        with self.dependence.paused():
            return call()

    # Where the examples are.

    def places(self, values: Tree) -> list[Place | None]:
        """Where the examples are in tensors among ``values``."""
        return [self.dependence.labels.at(t) for t in pytree.tree_leaves(values) if isinstance(t, Tensor)]

    def own(self, out: Tensor, place: Along | None = None) -> Tensor:
        """``out``, whose rows are those of the examples, in order; or at ``place``."""
        if not self.dependence.active:
            return out
        place = place or Along(0, len(out) // self.examples)
        return self.dependence.own(out, place.inner, place.dim)

    def has_rows(self, x: Tensor, what: str) -> bool:
        """Whether ``x`` has rows of the examples: else each group sees it as it is.

        Raises:
            NotCovered: if its examples aren't along the first dimension, in order.
        """
        dim = self.rows_along(x, what)
        self.check_first(dim, x, what)
        return dim is not None

    def check_first(self, dim: int | None, x: Tensor, what: str) -> None:
        """Raise NotCovered unless ``dim``, along which ``x`` has rows if any, is the first."""
        if dim and self.parted:
            raise Unordered(
                f"{what} sees a tensor of shape {tuple(x.shape)} whose examples aren't along the first dimension"
            )
        if dim:
            rows_of(x, self.examples, what)

    def rows_along(self, x: Tensor, what: str) -> int | None:
        """The dimension along which ``x`` has rows of the examples, in order; None if each group sees it as it is.

        What doesn't depend on parameters is taken to have them where their number fits, see `Guess`. If that is wrong
        the losses come out `Mixed`.

        Raises:
            NotCovered: if its examples aren't along one dimension.
        """
        dim = self.remembered(("rows", what, _forms([x])), lambda: self._look_for_rows(x, what))
        return None if dim is None or isinstance(dim, Along) else int(dim)

    def owned(self, tensors: list[Tensor], what: str) -> Along | None:
        """Where rows are among ``tensors`` that are owned as data says; None if there are none.

        Raises:
            NotCovered: if there are several such tensors.
        """
        found = self.remembered(("owned", what, _forms([*tensors])), lambda: self._look_for_owners(tensors, what))
        return found if isinstance(found, Along) else None

    def _look_for_owners(self, tensors: list[Tensor], what: str) -> Along | None:
        labels, known = self.dependence.labels, self.dependence.guess.owners
        if not (labels.owned or known):
            return None
        places = [labels.at(t) for t in tensors]
        found = [place for place in places if isinstance(place, Along) and isinstance(place.inner, Owners)]
        for t, place in zip(tensors, places, strict=True):
            if place is None and t.ndim and len(t) in known and not labels.is_constant(t):
                found.append(Along(0, Owners(known[len(t)])))
        if len(found) > 1:
            raise NotCovered(f"{what} sees several tensors with rows in an order that data says")
        return found[0] if found else None

    def _look_for_rows(self, x: Tensor, what: str) -> int | None:
        place = self.dependence.labels.at(x)
        if place is not None and type(x) is not Tensor:
            raise NotCovered(f"{what} sees a tensor of the class {type(x).__name__} that depends on parameters")
        if x.ndim == 0 or type(x) is not Tensor:
            if place is not None and self.parted:
                raise Unordered(f"{what} sees one number for all examples")
            return None
        if place is None:
            return self._repeated(x) if self.dependence.labels.is_constant(x) else self._guessed(x, what)
        if isinstance(place, Along) and place == Along(place.dim, x.shape[place.dim] // self.examples):
            return place.dim
        if not self.parted:
            rows_of(x, self.examples, what)
            return 0
        if isinstance(place, Mixed):
            raise Unordered(f"{what} sees what depends on {place.why}")
        raise Unordered(f"{what} sees a tensor of shape {tuple(x.shape)} whose examples aren't along one dimension")

    def _repeated(self, x: Tensor) -> int | None:
        """Where constants are likely to be rows: as many as examples, all alike, or words."""
        size = self.examples
        likely = [d for d in (0, 1) if x.ndim > 1 < size == x.shape[d] and x.stride(d) == 0]
        if not likely and x.ndim > 1 < size == len(x) and not x.is_floating_point():
            likely = [0]
        self.seen.guessed |= bool(likely)
        return likely[0] if likely and self.dependence.guess.repeated is not None else None

    def _guessed(self, x: Tensor, what: str) -> int | None:
        """Where data has its examples. Two dimensions of numbers are rows and features, of words sequences, too."""
        guess, size = self.dependence.guess, self.examples
        self.seen.guessed |= len(x) % size == 0 != len(x) - size or (x.ndim > 1 and x.shape[1] == size)
        first = len(x) % size == 0 if guess.several else len(x) == size
        second = guess.second is not None and x.ndim > 1 + x.is_floating_point() and x.shape[1] == size
        if second and (guess.second or not first):
            return 1
        if not (first or self.sure):
            rows_of(x, size, what)
        if not (first or self.seen.odd):
            self.seen.odd = f"{what} sees an input of shape {tuple(x.shape)} beside {size} examples"
        return 0 if first else None

    def are_alone(self, tensors: list[Tree], what: str) -> bool:
        """Whether none of ``tensors`` depends on examples."""
        return bool(
            self.remembered(
                ("alone", what, _forms(tensors)), lambda: all(self.dependence.labels.at(t) is None for t in tensors)
            )
        )

    def remembered(self, key: Question, decide: Callable[[], Decision]) -> Decision:
        """A decision; where activation checkpointing calls a layer again, nothing is followed, the one before."""
        if self.dependence.active:
            decision = decide()
            if self.recomputing:
                if self.decisions.get(key, _UNSURE) != decision:
                    raise NotCovered(OTHERWISE)
                return decision
            self.decided.append((key, decision))
            self.decisions[key] = decision if self.decisions.get(key, decision) == decision else _UNSURE
            return decision
        if isinstance(before := self.decisions.get(key, _UNSURE), Mixed):
            raise NotCovered(
                f"{key[1]} is used in backward by a way nobody watches (a function of autograd's own, say)"
            )
        return before

    def by_rows(self, x: Tensor, what: str, call: Callable[[], Tensor]) -> Tensor:
        """``call()``, which computes the rows of ``x`` that belong to a group by themselves."""
        if not self.dependence.active or (place := self.dependence.labels.at(x)) is None:
            return call()
        with self.dependence.paused():
            y = call()
        if place == Along(0, len(x) // self.examples):
            return self.dependence.own(y, len(y) // self.examples)
        self.dependence.labels.set_mixed(y, what)
        return y

    def check_losses(self, losses: Tensor) -> None:
        """Raise Unordered unless each of ``losses`` depends on one example, in order."""
        if not self.parted or type(losses) is Derived or losses.shape != (self.examples,):
            return
        check_functions(losses)
        place = self.dependence.labels.at(losses)
        if isinstance(place, Mixed):
            raise Unordered(f"the losses depend on {place.why}")
        if place not in (None, Along(0, 1)):
            raise Unordered("the losses aren't those of the examples in order")


class ClosureAgain(Closure):
    """The closure in the second pass. It does the same: what was decided in the first holds, and nothing is followed.

    Args:
        first: the closure in the first pass.
        examples: how many the batch has.
    """

    def __init__(self, first: Closure, examples: int):
        super().__init__(examples, first.names, first.parted)
        self.decided, self.decisions, self.seen.inner = first.decided, first.decisions, first.seen.inner
        self.dependence.guess = first.dependence.guess
        self._left: Iterator[tuple[Question, Decision]] | None = None

    @contextmanager
    def following(self, constants: list[Tensor]) -> Iterator[None]:
        """Nothing is followed twice; raises NotCovered if the closure does something else."""
        self._left = iter(self.decided)
        try:
            with self._running():
                yield
            if next(self._left, None) is not None:
                raise NotCovered(_CHANGED)
        finally:
            self._left = None

    def remembered(self, key: Question, decide: Callable[[], Decision]) -> Decision:
        """The decision of the first pass."""
        if self._left is None:
            return super().remembered(key, decide)
        before, decision = next(self._left, (None, None))
        if before != key:
            raise NotCovered(_CHANGED)
        return decision

    def _followed_again(self) -> AbstractContextManager[None]:
        return nullcontext()

    def places(self, values: Tree) -> list[Place | None]:
        """Nothing: the first pass has looked."""
        return []

    def check_losses(self, losses: Tensor) -> None:
        """Nothing: the first pass has looked."""


def _forms(values: list[Tree]) -> tuple[object, ...]:
    return tuple((t.shape, t.dtype) if isinstance(t, Tensor) else None for t in values)
