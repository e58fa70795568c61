"""A critic: which of two kinds a prediction is of."""

from __future__ import annotations

from torch import Tensor, nn


class Critic(nn.Module):
    """Tell what belongs to labelled images from what was predicted for unlabelled ones (SASSNet, Duo-SegNet).

    Maps and image each pass a strided convolution of their own; their sum passes three more, then the mean over voxels
    a linear layer. Convolutions are 3x3x3 with stride 2 and leaky ReLU, so any size of patch will do.

    Source: Li et al., MICCAI 2020, arXiv:2007.10732: five strided convolutions; widths as there, kernels are ours.

    Args:
        num_maps: channels of the prediction.
        in_channels: channels of the image; 0 judges the maps without it.
        channels: width of the first convolutions; the last has 8 times as many.
    """

    def __init__(self, num_maps: int, in_channels: int = 1, channels: int = 64) -> None:
        super().__init__()
        self.maps = nn.Conv3d(num_maps, channels, 3, 2, 1)
        self.image = nn.Conv3d(in_channels, channels, 3, 2, 1) if in_channels else None
        layers: list[nn.Module] = [nn.LeakyReLU(0.2)]
        for width in (channels, 2 * channels, 4 * channels):
            layers += [nn.Conv3d(width, 2 * width, 3, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8 * channels, 2))

    def forward(self, maps: Tensor, image: Tensor) -> Tensor:
        """Judge predictions.

        Args:
            maps: ``(B, num_maps, H, W, D)``, signed distances or probabilities.
            image: ``(B, channels, H, W, D)``, what they were made of; not read without ``in_channels``.

        Returns:
            Logits ``(B, 2)``: unlabelled, labelled.
        """
        seen = self.maps(maps) if self.image is None else self.maps(maps) + self.image(image)
        judged: Tensor = self.layers(seen)
        return judged
