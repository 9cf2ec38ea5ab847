"""A SAM as `lowland.optim.m_sam` sees it: for the passes that m-SAM makes itself."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from lowland.optim import amp
from lowland.optim.buffers import Buffers
from lowland.optim.core import Core
from lowland.optim.m_sam.host import Parameters, Settings
from lowland.optim.passes import ascent, climb, perturbed
from lowland.optim.step import Evaluation


class MSamHost:
    """A `lowland.optim.m_sam.host.Host`, which says what its methods do."""

    def __init__(self, core: Core):
        self._core = core

    @property
    def model(self) -> nn.Module:
        assert self._core.options.model is not None
        return self._core.options.model

    @property
    def settings(self) -> Settings:
        asked = self._core.options
        m_sam = asked.m_sam
        assert m_sam.m is not None
        return Settings(
            m_sam.m, asked.ascent_rule, asked.l2, asked.eps, m_sam.audit, m_sam.memory_limit, m_sam.perturbed_norms
        )

    def parameters(self) -> Parameters:
        trainable, rhos = self._core.trainable()
        members = self._core.options.members
        return Parameters(
            list(self._core.params()),
            trainable,
            dict(zip(trainable, rhos, strict=True)),
            {p for p in trainable if members is None or p in members},
            self._core.outside(),
            {p: name for name, p in self.model.named_parameters()},
        )

    def buffers(self, carried: Iterable[Tensor] = ()) -> Buffers:
        return Buffers(self.model, self._core.constants, carried)

    @contextmanager
    def batch(self) -> Iterator[None]:
        self._core.start()
        yield
        self._core.pending.evaluated += 1

    @contextmanager
    def under_way(self, name: str, apart: Sequence[Tensor] = ()) -> Iterator[None]:
        step, evaluation = self._core.step, Evaluation(name, list(apart))
        assert step is not None
        try:
            step.begin(evaluation)
            yield
        finally:
            evaluation.put_back()
            step.evaluation = None
            amp.clear_caches()

    def at_w(self, scaler: GradScaler | None, sync: bool, onward: bool) -> AbstractContextManager[None]:
        return ascent(self._core, scaler, sync, onward, buffers=False)

    @contextmanager
    def at_perturbed(self, share: float) -> Iterator[None]:
        """See `Host`.

        Hooks scale the gradients, not the loss: a function's own backward need not be linear, it may clip. Hooks on
        parameters run before DDP averages.
        """
        core = self._core
        with perturbed(core, share=share):
            step, hooks = core.step, []
            assert step is not None
            evaluation = step.evaluation

            def times_share(gradient: Tensor) -> Tensor:
                return gradient * share if step.evaluation is evaluation else gradient  # left by an interrupt: nothing

            try:
                for param in core.trainable()[0] + core.outside() if share < 1 else ():
                    hooks.append(param.register_hook(times_share))
                yield
            finally:
                for hook in hooks:
                    hook.remove()

    def perturbations(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        params, rhos = self._core.trainable()
        plan = climb(self._core, params, gradients, rhos)
        moves = zip(plan.owners, plan.directions, plan.rhos, strict=True)
        steps = {owner: direction * (rho * plan.climb.factor) for owner, direction, rho in moves}
        return [steps.get(p) for p in params]

    def out_of_reach(self) -> str | None:
        return self._core.out_of_reach()
