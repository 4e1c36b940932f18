"""One small member of each of timm's model families, as a network for two tasks.

`two_task_model("swin_transformer")` gives a network and an example input. The segmentation head reads the
deeper of two features of the timm backbone, the depth head the shallower one; what comes after the deeper
feature is not part of the network, where timm can leave it out. Nothing is downloaded. The weights are random,
the same for every call, and none are left as initialisation leaves them: a branch that starts at zero or
a layer scale of 1e-6 would hide what pruning does to it.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

__all__ = ["FAMILIES", "TRANSFORMERS", "Member", "TwoTaskModel", "two_task_model"]

SEGMENTATION_CLASSES = 5
_HEAD_WIDTH = 16


@dataclass(frozen=True)
class Member:
    """A member of a family: the smallest by parameters, without timm's own test networks.

    Attributes:
        name: timm's name.
        size: Height and width of the example, in pixels; small, but with more than one position left at
            the deeper feature.
        features: Which of the features that timm lists are read: the shallower and the deeper one.
        options: Arguments of `timm.create_model`: the image size where positions are stored for one, and
            fewer or narrower blocks where the whole family is large.
    """

    name: str
    size: int
    features: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, Member] = {
    "beit": Member(
        "beit_base_patch16_224", 64, (1, 3), {"depth": 4, "embed_dim": 192, "num_heads": 3, "img_size": 64}
    ),
    "byoanet": Member("halonet_h1", 256, (2, 4)),
    "byobnet": Member("mobileone_s1", 64, (2, 4)),
    "cait": Member("cait_xxs24_224", 64, (11, 23), {"img_size": 64}),
    "coat": Member("coat_tiny", 64, (1, 3), {"img_size": 64}),
    "convit": Member("convit_tiny", 64, (5, 11), {"img_size": 64}),
    "convmixer": Member("convmixer_768_32", 64, (15, 31)),
    "convnext": Member("convnext_zepto_rms", 64, (1, 3)),
    "cpubone": Member("cpubone_nano", 64, (1, 3)),
    "crossvit": Member("crossvit_tiny_240", 240, (2, 5)),
    "csatv2": Member("csatv2", 128, (2, 4)),
    "cspnet": Member("cs3darknet_focus_s", 64, (2, 4)),
    "cspnext": Member("cspnext_tiny", 64, (2, 4)),
    "davit": Member("davit_tiny", 64, (1, 3)),
    "deepseek_vit": Member("deepseek_vit_412m", 224, (1, 3), {"depth": 4, "embed_dim": 256, "num_heads": 4}),
    "deit": Member("deit_tiny_patch16_224", 64, (5, 11), {"img_size": 64}),
    "densenet": Member("densenet121", 64, (2, 4)),
    "dla": Member("dla46x_c", 64, (3, 5)),
    "dpn": Member("dpn48b", 64, (2, 4)),
    "edgenext": Member("edgenext_xx_small", 64, (1, 3)),
    "efficientformer": Member("efficientformer_l1", 224, (1, 3)),
    "efficientformer_v2": Member("efficientformerv2_s0", 64, (1, 3), {"img_size": 64}),
    "efficientnet": Member("mobilenetv2_035", 64, (2, 4)),
    "efficientvim": Member("efficientvim_m1", 128, (0, 2)),
    "efficientvit_mit": Member("efficientvit_b0", 64, (1, 3)),
    "efficientvit_msra": Member("efficientvit_m0", 128, (0, 2)),
    "eva": Member("vit_tiny_patch16_dinov3_qkvb", 64, (5, 11)),
    "fasternet": Member("fasternet_t0", 64, (1, 3)),
    "fastvit": Member("fastvit_t8", 64, (1, 3)),
    "focalnet": Member("focalnet_tiny_srf", 64, (1, 3)),
    "gcvit": Member("gcvit_xxtiny", 64, (1, 3), {"img_size": 64}),
    "gemma4_vit": Member(
        "gemma4_vit_167m",
        64,
        (1, 3),
        {"depth": 4, "embed_dim": 192, "num_heads": 3, "intermediate_size": 768},
    ),
    "ghostnet": Member("ghostnet_050", 64, (2, 4)),
    "hardcorenas": Member("hardcorenas_b", 64, (2, 4)),
    "hgnet": Member("hgnetv2_b0", 64, (1, 3)),
    "hiera": Member("hiera_tiny_224", 64, (1, 3), {"img_size": 64}),
    "hieradet_sam2": Member("sam2_hiera_tiny", 64, (1, 3)),
    "hrnet": Member("hrnet_w18_small", 64, (2, 4)),
    "iformer": Member("iformer_t", 64, (1, 3)),
    "inception_next": Member("inception_next_atto", 64, (1, 3)),
    "inception_resnet_v2": Member("inception_resnet_v2", 128, (2, 4)),
    "inception_v3": Member("inception_v3", 128, (2, 4)),
    "inception_v4": Member("inception_v4", 128, (2, 4)),
    "lcnetv2": Member("lcnetv2_small", 64, (1, 3)),
    "levit": Member("levit_128s", 128, (0, 2), {"img_size": 128}),
    "lowformer": Member("lowformer_b0", 64, (1, 3)),
    "mambaout": Member("mambaout_femto", 64, (1, 3)),
    "maxxvit": Member("maxvit_pico_rw_256", 64, (2, 4), {"img_size": 64}),
    "metaformer": Member("poolformerv2_s12", 64, (1, 3)),
    "mlp_mixer": Member("gmlp_ti16_224", 64, (14, 29), {"img_size": 64}),
    "mobilenetv3": Member("mobilenetv3_small_050", 64, (2, 4)),
    "mobilenetv5": Member("mobilenetv5_base", 64, (2, 4), {"channel_multiplier": 0.25}),
    "mobilevit": Member("mobilevit_xxs", 64, (2, 4)),
    "mvitv2": Member("mvitv2_tiny", 64, (1, 3)),
    "naflexvit": Member(
        "naflexvit_base_patch16_gap", 64, (1, 3), {"depth": 4, "embed_dim": 192, "num_heads": 3}
    ),
    "nasnet": Member("nasnetalarge", 64, (2, 4), {"stem_size": 32, "num_features": 1056}),
    "nest": Member("nest_tiny", 64, (0, 2), {"img_size": 64}),
    "nextvit": Member("nextvit_small", 64, (1, 3)),
    "nfnet": Member("nf_regnet_b0", 64, (2, 4)),
    "pit": Member("pit_ti_224", 64, (0, 2), {"img_size": 64}),
    "pnasnet": Member("pnasnet5large", 64, (2, 4)),
    "pvt_v2": Member("pvt_v2_b0", 64, (1, 3)),
    "qwen3_vit": Member("qwen3_vit_88m", 64, (1, 3), {"depth": 4, "embed_dim": 192, "num_heads": 3}),
    "rdnet": Member("rdnet_tiny", 64, (1, 3)),
    "regnet": Member("regnetx_002", 64, (2, 4)),
    "repghost": Member("repghostnet_050", 64, (2, 4)),
    "repvit": Member("repvit_m0_9", 64, (1, 3)),
    "res2net": Member("res2next50", 64, (2, 4)),
    "resnest": Member("resnest14d", 64, (2, 4)),
    "resnet": Member("resnet10t", 64, (2, 4)),
    "resnetv2": Member("resnetv2_18", 64, (2, 4)),
    "rexnet": Member("rexnet_100", 64, (2, 4)),
    "selecsls": Member("selecsls42", 64, (2, 4)),
    "senet": Member("legacy_seresnet18", 64, (2, 4)),
    "sequencer": Member("sequencer2d_s", 96, (0, 2)),
    "shvit": Member("shvit_s1", 128, (0, 2)),
    "sknet": Member("skresnet18", 64, (2, 4)),
    "starnet": Member("starnet_s050", 64, (1, 3)),
    "swiftformer": Member("swiftformer_xs", 64, (1, 3)),
    "swin_transformer": Member("swin_tiny_patch4_window7_224", 64, (1, 3), {"img_size": 64}),
    "swin_transformer_v2": Member("swinv2_tiny_window8_256", 64, (1, 3), {"img_size": 64}),
    "swin_transformer_v2_cr": Member("swinv2_cr_tiny_224", 64, (1, 3), {"img_size": 64}),
    "tiny_vit": Member("tiny_vit_5m_224", 64, (1, 3)),
    "tnt": Member("tnt_s_legacy_patch16_224", 64, (5, 11), {"img_size": 64}),
    "tresnet": Member("tresnet_m", 64, (2, 4)),
    "twins": Member("twins_svt_small", 64, (1, 3)),
    "vgg": Member("vgg11_bn", 64, (3, 5)),
    "visformer": Member("visformer_tiny", 64, (0, 2), {"img_size": 64}),
    "vision_transformer": Member("vit_tiny_patch16_224", 64, (5, 11), {"img_size": 64}),
    "vision_transformer_hybrid": Member("vit_tiny_r_s16_p8_224", 64, (5, 11), {"img_size": 64}),
    "vision_transformer_relpos": Member("vit_relpos_small_patch16_rpn_224", 64, (5, 11), {"img_size": 64}),
    "vision_transformer_sam": Member(
        "samvit_base_patch16_224",
        64,
        (1, 3),
        {"depth": 4, "embed_dim": 192, "num_heads": 3, "global_attn_indexes": (1, 3)},
    ),
    "vitamin": Member("vitamin_small_224", 64, (6, 13), {"img_size": 64}),
    "volo": Member("volo_d1_224", 64, (1, 3), {"img_size": 64}),
    "vovnet": Member("ese_vovnet19b_slim_dw", 64, (2, 4)),
    "xception": Member("legacy_xception", 64, (2, 4)),
    "xception_aligned": Member("xception41p", 64, (2, 4)),
    "xcit": Member("xcit_nano_12_p8_224", 64, (5, 11)),
}

# fmt: off
TRANSFORMERS = frozenset({
    "beit", "cait", "coat", "convit", "crossvit", "davit", "deepseek_vit", "deit", "edgenext",
    "efficientformer", "efficientformer_v2", "efficientvit_mit", "efficientvit_msra", "eva", "gcvit",
    "gemma4_vit", "hiera", "hieradet_sam2", "levit", "maxxvit", "mobilevit", "mvitv2", "naflexvit",
    "nest", "nextvit", "pit", "pvt_v2", "qwen3_vit", "swin_transformer", "swin_transformer_v2",
    "swin_transformer_v2_cr", "tiny_vit", "tnt", "twins", "visformer", "vision_transformer",
    "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "volo",
    "xcit",
})
# fmt: on


class TwoTaskModel(nn.Module):
    """Images to `segmentation`, from the deeper feature of a timm backbone, and `depth`, from the shallower one.

    Args:
        backbone: What `timm.create_model(..., features_only=True)` gives, with two features.
        channels: Channels of the shallower and the deeper feature.
    """

    def __init__(self, backbone: nn.Module, channels: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.segmentation = Head(channels[1], SEGMENTATION_CLASSES)
        self.depth = Head(channels[0], 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        shallow, deep = (_to_channels_first(feature, self.backbone) for feature in self.backbone(images))
        return {"segmentation": self.segmentation(deep), "depth": self.depth(shallow)}


class Head(nn.Module):
    """A dense prediction at the resolution of the feature; `predict` makes the numbers of the task."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, _HEAD_WIDTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(_HEAD_WIDTH)
        self.predict = nn.Conv2d(_HEAD_WIDTH, out_channels, 1)

    def forward(self, feature: Tensor) -> Tensor:
        output: Tensor = self.predict(torch.relu(self.norm(self.conv(feature))))
        return output


def two_task_model(family: str, *, seed: int = 0) -> tuple[TwoTaskModel, Tensor]:
    """Build the network of a family, in evaluation mode, and an example input (1, 3, size, size).

    Args:
        family: A key of `FAMILIES`.
        seed: Of the weights and of the example.

    Raises:
        Exception: Whatever timm raises where it cannot build or run the member.
    """
    member = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = timm.create_model(
            member.name, pretrained=False, features_only=True, out_indices=member.features, **member.options
        ).eval()
        example = torch.randn(1, 3, member.size, member.size)
        model = TwoTaskModel(backbone, _channels(backbone, example)).eval()
        randomise_constants(model)
    return model, example


@torch.no_grad()
def _channels(backbone: nn.Module, example: Tensor) -> tuple[int, int]:
    """Channels of the two features; of a copy, because some networks keep results of their first run."""
    shallow, deep = (_to_channels_first(feature, backbone) for feature in copy.deepcopy(backbone)(example))
    return shallow.shape[1], deep.shape[1]


def _to_channels_first(feature: Tensor, backbone: nn.Module) -> Tensor:
    is_channels_last = str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC")
    return feature.permute(0, 3, 1, 2) if is_channels_last else feature


@torch.no_grad()
def randomise_constants(model: nn.Module) -> None:
    """Replace every parameter and every running statistic that is the same number throughout.

    Biases become small numbers around zero, zero weights the usual random ones, zero or tiny scales
    0.3 to 0.7, other constants c numbers from 0.75 c to 1.25 c; running means become small numbers and
    running variances 0.75 to 1.25.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
            parameter.copy_(_random_like(name, parameter))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.75, 1.25)


def _random_like(name: str, parameter: Tensor) -> Tensor:
    value = float(parameter.flatten()[0])
    if abs(value) > 1e-2:
        return torch.empty_like(parameter).uniform_(0.75, 1.25) * value
    if value == 0 and "bias" in name.rpartition(".")[2]:
        return 0.1 * torch.randn_like(parameter)
    if value == 0 and sum(size > 1 for size in parameter.shape) > 1:
        scale = math.sqrt(1 / parameter[0].numel())
        return torch.randn_like(parameter) * scale
    return torch.empty_like(parameter).uniform_(0.3, 0.7)
