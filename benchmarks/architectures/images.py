"""timm: networks of images. Batch norm is in training mode: each group of examples has statistics of its own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from architectures.case import CLASSES, Batch, Case, cross_entropy
from architectures.data import images

PIXELS = 64
VIT = {"img_size": PIXELS, "patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"img_size": PIXELS, "patch_size": 8, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
PYRAMID = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)}


def classified(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch["x"]), batch["y"])


def registered(title: str, name: str, **sizes: Any) -> Case:
    """What timm has under ``name``, made small by ``sizes``."""

    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, drop_path_rate=0.0, **sizes)

    return Case(title, f"timm `{name}`", build, images(PIXELS), classified)


def made(title: str, name: str, build: Callable[[], nn.Module]) -> Case:
    """By the classes of timm."""
    return Case(title, f"timm `{name}`", build, images(PIXELS), classified)


def regnet() -> nn.Module:
    from timm.models.regnet import RegNet, RegNetCfg

    sizes = RegNetCfg(depth=6, w0=8, wa=8.0, wm=1.5, group_size=4, se_ratio=0.25, stem_width=8)
    return RegNet(sizes, num_classes=CLASSES)


def mobilenet() -> nn.Module:
    from timm.models.mobilenetv3 import _gen_mobilenet_v3

    return _gen_mobilenet_v3("mobilenetv3_small_050", 0.125, num_classes=CLASSES)


def nfnet() -> nn.Module:
    from timm.models.nfnet import NfCfg, NormFreeNet

    sizes = NfCfg((1, 1), (8, 16), stem_type="3x3", stem_chs=8, group_size=4, std_conv_eps=1e-5, gamma_in_act=True)
    return NormFreeNet(sizes, num_classes=CLASSES)


def maxxvit(blocks: tuple[str, str], **attention: Any) -> Callable[[], nn.Module]:
    """Two stages: of convolutions (C), of attention (T), or of both (M)."""

    def build() -> nn.Module:
        from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg

        attends = MaxxVitTransformerCfg(dim_head=4, **attention)
        sizes = MaxxVitCfg((8, 16), (1, 1), blocks, stem_width=8, transformer_cfg=attends)
        return MaxxVit(sizes, img_size=PIXELS, num_classes=CLASSES)

    return build


def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(CLASSES, img_size=PIXELS, patch_size=16, embed_dim=16, num_blocks=2)


def poolformer() -> nn.Module:
    from timm.models.metaformer import MetaFormer

    return MetaFormer(num_classes=CLASSES, **STAGES)


CASES = (
    registered("ResNet", "resnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16)),
    made("RegNet", "RegNet", regnet),
    made("MobileNetV3", "mobilenetv3_small_050", mobilenet),
    registered("EfficientNet", "test_efficientnet"),
    made("NFNet", "NormFreeNet", nfnet),
    registered("ConvNeXt", "convnext_atto", **STAGES),
    registered("ViT", "vit_tiny_patch16_224", **VIT),
    registered("DeiT, distilled", "deit_tiny_distilled_patch16_224", **VIT),
    registered("Swin", "swin_tiny_patch4_window7_224", **SWIN),
    registered("Swin V2", "swinv2_tiny_window8_256", **SWIN),
    registered("BEiT", "beit_base_patch16_224", **VIT),
    registered("EVA-02", "eva02_tiny_patch14_224", **VIT),
    registered("CaiT", "cait_xxs24_224", **VIT),
    registered("XCiT", "xcit_nano_12_p16_224", **VIT),
    made("MaxViT", "MaxxVit", maxxvit(("M", "M"), window_size=4)),
    made("CoAtNet", "MaxxVit", maxxvit(("C", "T"))),
    made("MLP-Mixer", "MlpMixer", mixer),
    made("PoolFormer", "MetaFormer", poolformer),
)
