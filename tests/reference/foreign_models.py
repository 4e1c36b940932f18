"""Multitask models from libraries that know nothing of lomt, put together in the few lines that their users write."""

from collections import OrderedDict

import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

CLASSES = 16
SIZE = (64, 96)


class SmpHeads(nn.Module):
    """An encoder of segmentation_models_pytorch with a decoder and a head for each task."""

    def __init__(self, kind: str, encoder: str = "mobilenet_v2", tasks: int = 2) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        channels = {"segmentation": CLASSES, "depth": 1, "edges": 1}
        models = {
            task: getattr(smp, kind)(encoder, encoder_weights=None, classes=count)
            for task, count in list(channels.items())[:tasks]
        }
        self.encoder = next(iter(models.values())).encoder
        self.decoders = nn.ModuleDict({task: own.decoder for task, own in models.items()})
        self.heads = nn.ModuleDict({task: own.segmentation_head for task, own in models.items()})

    def forward(self, images):
        """Predict at the images' size."""
        features = self.encoder(images)
        return {task: self.heads[task](own(features)) for task, own in self.decoders.items()}


class SmpSharedDecoder(nn.Module):
    """A whole U-Net of segmentation_models_pytorch that two tasks share, up to their heads."""

    def __init__(self) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        network, other = (smp.Unet("resnet18", encoder_weights=None, classes=count) for count in (CLASSES, 1))
        self.encoder, self.decoder = network.encoder, network.decoder
        self.heads = nn.ModuleDict(
            {"segmentation": network.segmentation_head, "depth": other.segmentation_head}
        )

    def forward(self, images):
        """Predict at the images' size."""
        features = self.decoder(self.encoder(images))
        return {task: own(features) for task, own in self.heads.items()}


class ColourAndDepth(nn.Module):
    """torchvision's ResNet for the image and timm's for its depth, fused before the heads."""

    def __init__(self) -> None:
        super().__init__()
        network = torchvision.models.resnet18(weights=None)
        self.colour = nn.Sequential(OrderedDict(list(network.named_children())[:-2]))
        self.geometry = timm.create_model("resnet10t", in_chans=1, num_classes=0, global_pool="")
        self.fuse = nn.Conv2d(512 + self.geometry.num_features, 128, 1)
        self.heads = nn.ModuleDict(
            {"segmentation": nn.Conv2d(128, CLASSES, 3, padding=1), "edges": nn.Conv2d(128, 1, 3, padding=1)}
        )

    def forward(self, images, depth):
        """Predict at a thirty-second of the images' size."""
        both = torch.cat([self.colour(images), self.geometry(depth)], 1)
        features = functional.relu(self.fuse(both))
        return {task: own(features) for task, own in self.heads.items()}


class TorchvisionHeads(nn.Module):
    """A segmentation network of torchvision with a second head beside its own."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        build = getattr(torchvision.models.segmentation, kind)
        network = build(weights=None, weights_backbone=None, num_classes=CLASSES)
        other = build(weights=None, weights_backbone=None, num_classes=1)
        self.backbone = network.backbone
        self.heads = nn.ModuleDict({"segmentation": network.classifier, "depth": other.classifier})
        self.is_lraspp = kind.startswith("lraspp")

    def forward(self, images):
        """Predict at the images' size."""
        features = self.backbone(images)
        given = features if self.is_lraspp else features["out"]
        size = images.shape[-2:]
        return {
            task: functional.interpolate(own(given), size=size, mode="bilinear", align_corners=False)
            for task, own in self.heads.items()
        }


class FpnHeads(nn.Module):
    """torchvision's ResNet with its feature pyramid, and a head that reads several of its levels for each task."""

    def __init__(self) -> None:
        super().__init__()
        make = torchvision.models.detection.backbone_utils.resnet_fpn_backbone
        self.backbone = make(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )
        self.heads = nn.ModuleDict({"segmentation": LevelHead(CLASSES), "depth": LevelHead(1)})

    def forward(self, images):
        """Predict at a quarter of the images' size."""
        levels = self.backbone(images)
        return {task: own([levels[name] for name in "012"]) for task, own in self.heads.items()}


class LevelHead(nn.Module):
    """Adds levels of a pyramid up and predicts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(256, 16, 3, padding=1)
        self.last = nn.Conv2d(16, channels, 1)

    def forward(self, levels):
        """Predict at the size of the first level."""
        first = levels[0]
        for level in levels[1:]:
            first = first + functional.interpolate(level, size=first.shape[-2:])
        return self.last(functional.relu(self.conv(first)))


class VitHeads(nn.Module):
    """A vision transformer whose patch tokens are turned into maps for two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=0, depth=4)
        self.heads = nn.ModuleDict({"segmentation": TokenHead(192, CLASSES), "depth": TokenHead(192, 1)})

    def forward(self, images):
        """Predict at a sixteenth of the images' size."""
        tokens = self.vit.forward_features(images)[:, 1:]
        return {task: own(tokens) for task, own in self.heads.items()}


class TokenHead(nn.Module):
    """A map from tokens."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.mix, self.last = nn.Conv2d(width, 32, 3, padding=1), nn.Conv2d(32, channels, 1)

    def forward(self, tokens):
        """Predict for every patch."""
        height, width = SIZE[0] // 16, SIZE[1] // 16
        maps = tokens.transpose(1, 2).unflatten(2, (height, width))
        return self.last(functional.relu(self.mix(maps)))


FOREIGN = {
    **{
        f"smp {kind}": (SmpHeads, {"kind": kind}, SIZE)
        for kind in ("Unet", "FPN", "DeepLabV3Plus", "Linknet")
    },
    "smp PAN": (SmpHeads, {"kind": "PAN"}, (128, 128)),  # it takes no smaller images
    "smp Unet, one decoder for both": (SmpSharedDecoder, {}, SIZE),
    "smp Unet, three heads": (SmpHeads, {"kind": "Unet", "encoder": "resnet18", "tasks": 3}, SIZE),
    "torchvision deeplabv3_mobilenet_v3_large": (
        TorchvisionHeads,
        {"kind": "deeplabv3_mobilenet_v3_large"},
        SIZE,
    ),
    "torchvision lraspp_mobilenet_v3_large": (TorchvisionHeads, {"kind": "lraspp_mobilenet_v3_large"}, SIZE),
    "torchvision resnet18 with FPN": (FpnHeads, {}, SIZE),
    "timm ViT": (VitHeads, {}, SIZE),
    "torchvision resnet18 and timm resnet10t, two inputs": (ColourAndDepth, {}, SIZE),
}
"""By name: what builds it, with which arguments, and the size of its images."""

INPUTS = {"torchvision resnet18 and timm resnet10t, two inputs": {"depth": 1}}
"""By name: channels of what it takes beside the image."""
