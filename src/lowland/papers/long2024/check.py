"""What is measured: where training stands with respect to its edge of stability, and at the end a test set."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowland.curvature import Hessian, Objective, Stability, stability_of_stack
from lowland.curvature.stability import stability_of
from lowland.papers.long2024.settings import Settings
from lowland.training import Record, Snapshot

_UNRECORDED = ("vector", "reason", "eigenvalues")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Test examples, all of which count the same.

    Attributes:
        inputs: ``(n, ...)``.
        targets: as the loss takes them, ``(n, ...)``.
        labels: the right class of each prediction, ``(n,)``, or ``(n, length)`` for text.
        chunk: examples that go through the network at a time.
    """

    inputs: Tensor
    targets: Tensor
    labels: Tensor
    chunk: int = 500

    def __call__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor]) -> dict[str, float]:
        """``test_loss``, the mean, and ``test_error``, the share of predictions whose most likely class is wrong."""
        loss, wrong = 0.0, 0
        with torch.no_grad():
            for x, y, labels in zip(
                *(part.split(self.chunk) for part in (self.inputs, self.targets, self.labels)), strict=True
            ):
                outputs = model(x)
                loss += loss_fn(outputs, y).item() * len(x)
                wrong += int((outputs.argmax(-1) != labels).sum())
        return {"test_loss": loss / len(self.inputs), "test_error": wrong / self.labels.numel()}


class NormCheck(ABC):
    """The certified Hessian norm on the batch at hand, warm-started from the check before.

    Whether the gradient is that of the loss is looked at by the first check alone, as a `lowland.curvature.Monitor`
    does: what hides a part of the loss from differentiation is a matter of how model and loss are written.

    After the last step also the loss and the error on the test set, where there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        settings: Settings,
        held_out: HeldOut | None = None,
    ):
        self.model, self.loss_fn, self.settings, self.held_out = model, loss_fn, settings, held_out
        self.vector: Tensor | None = None
        self._cut_off: str | None = None  # not looked at yet

    @abstractmethod
    def fields(self, step: int, measured: Stability) -> Record:
        """What is recorded of the training batch."""

    def __call__(self, step: int, batch: tuple[Any, Any]) -> Record:
        """A record."""
        settings = self.settings
        hessian = Hessian.of(Objective(self.model, self.loss_fn, [batch]), self._cut_off)
        measured = stability_of(
            hessian, lr=settings.lr, rho=self.rho, eps=settings.eps, tol=settings.tol, start=self.vector,
            k=settings.eigenvalues,
        )  # fmt: skip
        self._cut_off = hessian.cut_off()
        return self.record(step, measured)

    @property
    def rho(self) -> float:
        """Radius of the SAM whose edge is measured."""
        return self.settings.rho

    def record(self, step: int, measured: Stability) -> Record:
        """The record of what was measured, from which the next check starts."""
        self.vector = measured.vector
        record = self.fields(step, measured)
        if step == self.settings.steps and self.held_out is not None:
            record |= self.held_out(self.model, self.loss_fn)
        return record

    def state_dict(self) -> dict[str, Any]:
        """The eigenvector that the next check starts from, and what the first found of the gradient."""
        return {"vector": self.vector, "cut_off": self._cut_off}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.vector, self._cut_off = state_dict["vector"], state_dict.get("cut_off")


class EdgeCheck(NormCheck):
    """Hessian norm, SAM edge and alignments on the batch at hand: the fields of `lowland.curvature.Stability`."""

    @classmethod
    def together(cls, checks: Sequence["EdgeCheck"], snapshot: Snapshot) -> list[dict[str, Any] | FloatingPointError]:
        """What each of ``checks`` would record of its run of ``snapshot``, or raise; each keeps its own warm start.

        Runs whose checks look for several eigenvalues are measured one by one.
        """
        alike: dict[tuple[float, float], list[int]] = {}
        results: dict[int, dict[str, Any] | FloatingPointError] = {}
        for run, check in enumerate(checks):
            if check.settings.eigenvalues > 1:
                results[run] = check._alone(snapshot, run)
            else:
                alike.setdefault((check.settings.eps, check.settings.tol), []).append(run)
        for (eps, tol), runs in alike.items():
            params, x, y = snapshot.params, snapshot.x, snapshot.y
            if len(runs) < len(checks):
                params = {name: param[runs] for name, param in params.items()}
                x, y = (x, y) if snapshot.shared else (x[runs], y[runs])
            settings = [checks[run].settings for run in runs]
            measured = stability_of_stack(
                snapshot.model, snapshot.loss_fn, params, x, y, shared=snapshot.shared,
                lr=[one.lr for one in settings], rho=[one.rho for one in settings], eps=eps, tol=tol,
                starts=[checks[run].vector for run in runs],
            )  # fmt: skip
            for run, found in zip(runs, measured, strict=True):
                if isinstance(found, FloatingPointError):
                    results[run] = found
                    continue
                checks[run]._take(snapshot, run)
                results[run] = checks[run].record(snapshot.step, found)
        return [results[run] for run in range(len(checks))]

    def _alone(self, snapshot: Snapshot, run: int) -> dict[str, Any] | FloatingPointError:
        self._take(snapshot, run)
        x, y = (snapshot.x, snapshot.y) if snapshot.shared else (snapshot.x[run], snapshot.y[run])
        try:
            return self(snapshot.step, (x, y))
        except FloatingPointError as error:
            return error

    def _take(self, snapshot: Snapshot, run: int) -> None:
        """Take up the weights of a run: the check's own model has its initial ones."""
        with torch.no_grad():
            for name, param in self.model.named_parameters():
                if name in snapshot.params:
                    param.copy_(snapshot.params[name][run])

    def fields(self, step: int, measured: Stability) -> Record:
        """All of them; ``eigenvalues`` where there are several."""
        record = {name: value for name, value in vars(measured).items() if name not in _UNRECORDED}
        if self.settings.eigenvalues > 1:
            record["eigenvalues"] = list(measured.eigenvalues)
        return record
