"""A multitask network as its owner wrote it: an encoder of segmentation_models_pytorch, an FPN decoder a task."""

from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

CHANNELS = {"segmentation": 13, "depth": 1, "normals": 3}


class MultitaskFpn(nn.Module):
    """Segmentation, depth and surface normals from one backbone."""

    def __init__(self, encoder: str = "tu-tf_efficientnet_lite0") -> None:
        super().__init__()
        self.encoder = get_encoder(encoder, weights=None)
        self.decoders = nn.ModuleDict({task: FPNDecoder(self.encoder.out_channels) for task in CHANNELS})
        self.heads = nn.ModuleDict(
            {
                task: SegmentationHead(
                    self.decoders[task].out_channels, channels, kernel_size=1, upsampling=4
                )
                for task, channels in CHANNELS.items()
            }
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict all tasks at the images' size."""
        features = self.encoder(images)
        return {task: self.heads[task](self.decoders[task](features)) for task in CHANNELS}
