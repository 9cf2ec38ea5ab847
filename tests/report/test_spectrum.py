"""The figure of a spectral density: its curves are the densities, on a logarithmic scale."""

import pytest
import torch
from matplotlib.figure import Figure

from lowland.curvature import quadrature
from lowland.curvature.lanczos import Operator
from lowland.report import canvas, draw_spectrum


def spectrum(scale=1.0, samples=3):
    values = scale * torch.cat([torch.linspace(-0.1, 0.1, 48), torch.tensor([1.0, 3.0])]).double()
    return quadrature.spectrum(Operator(lambda v: values * v, 50, torch.float64), samples, 20)


def test_one_and_several(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(canvas, "write_atomically", lambda path, content: path.write_bytes(content))
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    one = spectrum()
    assert draw_spectrum(one, tmp_path / "new") == tmp_path / "new/spectrum.png"
    axis = drawn[0].axes[0]
    assert axis.get_yscale() == "log"
    (line,) = axis.lines
    shown = line.get_ydata() > axis.get_ylim()[0]
    assert shown.any()
    assert line.get_ydata()[shown] == pytest.approx(one.density.value[torch.tensor(shown)].numpy())
    draw_spectrum({"sgd": one, "sam": spectrum(0.5, samples=1)}, tmp_path, name="both")
    assert [line.get_label() for line in drawn[-1].axes[0].lines] == ["sgd", "sam"]
    assert (tmp_path / "both.pdf").stat().st_size > 1000
    with pytest.raises(ValueError, match="between 1 and 7"):
        draw_spectrum({}, tmp_path)
    with pytest.raises(TypeError, match=r"Hessian\.spectrum\(\) gave, .* not a float"):
        draw_spectrum({"trace": 3.0}, tmp_path)
