"""Exact m-SAM in two passes over the whole batch, whatever m.

For group j of n_j consecutive examples, g_j is the gradient of its mean loss at w, s_j = ρ/(‖g_j‖ + eps) and
e_j = s_j g_j; the gradient that descends is Σ_j (n_j/B) · that of the group's mean loss at w + e_j (Foret et al. 2021,
section 4.1; Andriushchenko & Flammarion 2022, equation 3). The first pass takes the gradients at the outputs of
layers, from which g_j follows; the second calls the layers with what e_j adds to their outputs.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp
from lowland.optim.buffers import Buffers
from lowland.optim.m_sam import loop
from lowland.optim.m_sam.audit import COUPLED, Audit
from lowland.optim.m_sam.climb import unsupported
from lowland.optim.m_sam.evaluate import Losses, evaluate, without_a_trace
from lowland.optim.m_sam.host import Host, Parameters
from lowland.optim.m_sam.layers.batch_norm import running_statistics
from lowland.optim.m_sam.lines import line_of
from lowland.optim.m_sam.refusals import NoGradient, NotCovered, OwnGenerator, Refused, Unordered, raising
from lowland.optim.m_sam.report import Last, Report
from lowland.optim.m_sam.two_passes import Learnt, TwoPasses
from lowland.optim.m_sam.watch import followed
from lowland.optim.m_sam.watched import Derived
from lowland.torch_tools import States, level_of_caller, random_states, replay, uncompiled


class Engine:
    """Computes m-SAM's gradient for one optimizer: by two passes, or by the loop over groups where they can't be."""

    def __init__(self, host: Host):
        self.host = host
        #: Why the loop is taken, once that is known.
        self.reason: str | None = None
        #: Why it is to be taken from the first batch on, if a state that was loaded says so.
        self.before: str | None = None
        self.learnt = Learnt()
        #: Of the last batch; None before, and where the loop was taken.
        self.report: Report | None = None
        #: The parameter that the last passes used last, in words.
        self._where = ""
        self._said: set[str] = set()

    def backward(self, closure: Losses, scaler: GradScaler | None = None) -> Tensor:
        """Add the m-SAM gradient of a batch to ``p.grad``, and return the mean loss at w; see `SAM.backward`."""
        model = self.host.model
        if self.reason is None:
            self.reason = unsupported(self.host.settings.ascent_rule) or self.before
            if self.reason is None:
                who = self.host.parameters()
                states = random_states(who.everyone)
                if any(map(_is_compiled, model.modules())):
                    self.warn(
                        "m-SAM runs what torch.compile compiled as it was written, for weights that differ by group"
                    )
                self.learnt.audits.batches += 1
                # Running statistics by group are the sum of what the parts of a batch give.
                buffers = self.host.buffers(carried=running_statistics(model))
                try:
                    with uncompiled(), self.host.batch():
                        report = self._two_passes(who, closure, scaler, states, buffers)
                    buffers.finish()
                    self.report = report
                    return report.loss
                except BaseException as error:
                    buffers.undo()
                    own = isinstance(error, OwnGenerator) and not self.learnt.generators
                    if own and self._repeats(closure, states):
                        self.learnt.generators = True
                        replay(states)
                        return self.backward(closure, scaler)
                    self.reason = self._why_not(error, closure, scaler, states)
                    replay(states)
            of = "its examples" if loop.goes_by_slices(closure, self.host) else "the batch"
            self.warn(
                f"m-SAM goes group by group, two evaluations of {of} for each: {self.reason}. The result is the same."
            )
        self.report = None
        return loop.backward(self.host, closure, scaler)

    @property
    def last(self) -> Last | None:
        """What the report of the last step says, for `SAM.last`; None without a report."""
        return None if self.report is None else self.report.last

    def plan(self) -> str:
        """A table of how the last step held the groups' gradients."""
        if self.reason is not None:
            return f"m-SAM goes group by group: {self.reason}"
        if self.report is None:
            return "m-SAM: no step was made yet"
        return self.report.table(self.learnt.audits.cost)

    def warn(self, line: str) -> None:
        """Say something to the user, once."""
        if line not in self._said:
            self._said.add(line)
            warnings.warn(line, stacklevel=level_of_caller())

    def _two_passes(
        self, who: Parameters, closure: Losses, scaler: GradScaler | None, states: States, buffers: Buffers
    ) -> Report:
        def losses() -> Tensor:
            buffers.rewind()
            return evaluate(watched, states, self.host)

        def watched() -> Tensor:
            value = followed(closure)
            if isinstance(value, Derived):
                raise NotCovered("the losses depend on no input that was there before the closure, as a plain tensor")
            return value

        passes = TwoPasses(self.host, who, losses, buffers, scaler, self.learnt, self.warn)
        try:
            return passes.run()
        finally:
            self._where = "" if passes.closure is None else passes.closure.seen.where

    def _why_not(self, error: BaseException, closure: Losses, scaler: GradScaler | None, states: States) -> str:
        """Why the loop is taken after ``error``, which is raised if the loop can't help."""
        if isinstance(error, NotCovered):
            if isinstance(error, Unordered) and self.host.settings.audit:
                self._refuse_coupled(closure, states)
            return str(error)
        if not isinstance(error, Exception) or isinstance(error, Refused | NoGradient | torch.OutOfMemoryError):
            raise error
        return self._only_here(error, closure, scaler, states)

    def _only_here(self, error: Exception, closure: Losses, scaler: GradScaler | None, states: States) -> str:
        """``error`` in words, if the passes raise it each time and the plain closure doesn't; else it is raised."""
        model = self.host.model
        with without_a_trace(self.host):
            try:
                with torch.enable_grad():
                    evaluate(closure, states, self.host).mean().backward()
            except Exception:
                raise error from None
        with without_a_trace(self.host):
            try:
                with uncompiled():
                    buffers = Buffers(model, carried=running_statistics(model))
                    self._two_passes(self.host.parameters(), closure, scaler, states, buffers)
            except Exception:
                pass
            else:  # once, and not again: maybe what it reads wasn't there
                raise error
            finally:
                amp.clear_caches()
        return raising(error, line_of(error), self._where)

    def _repeats(self, closure: Losses, states: States) -> bool:
        """Whether two evaluations give the same losses."""
        with without_a_trace(self.host):
            return torch.equal(*(evaluate(closure, states, self.host).detach() for _ in range(2)))

    def _refuse_coupled(self, closure: Losses, states: States) -> None:
        """Raise Refused if the losses of one group reach all rows of each layer."""
        size = self.learnt.size

        def losses() -> Tensor:
            return evaluate(lambda: followed(closure), states, self.host)

        try:
            with without_a_trace(self.host), uncompiled():
                audit = Audit(self.host, self.host.parameters(), losses, lambda: None, guess=self.learnt.guess)
                coupled = size is not None and audit.couples(size)
        except Exception:  # nothing can be told; the loop is right all the same
            return
        finally:
            amp.clear_caches()
        if coupled:
            raise Refused(COUPLED)


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
