"""Andriushchenko & Flammarion 2022, *Towards Understanding Sharpness-Aware Minimization*.

The experiments `cifar`, `convergence`, `finetune`, `label_noise` and `late` train networks on images, with `settings`,
`methods`, `task`, `ascents`, `check`, `claims` and `figures`. `diagonal` and `relu` are programs of their own.
"""

PAPER = (
    "Andriushchenko & Flammarion 2022, Towards Understanding Sharpness-Aware Minimization, "
    "International Conference on Machine Learning"
)
