"""Real architectures, nearly all of other libraries, small and randomly initialised, with a loss for each example."""

from architectures import (
    adapters,
    clip,
    decoders,
    encoders,
    graphs,
    images,
    recurrent,
    refused,
    series,
    sound,
    translation,
    vision,
)
from architectures.case import Case

CASES: tuple[Case, ...] = (
    *images.CASES,
    *vision.CASES,
    *encoders.CASES,
    *decoders.CASES,
    *translation.CASES,
    *sound.CASES,
    *clip.CASES,
    *series.CASES,
    *recurrent.CASES,
    *graphs.CASES,
    *adapters.CASES,
)
REFUSED: tuple[Case, ...] = refused.CASES
