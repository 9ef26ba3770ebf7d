"""The built-in networks, each as an extractor and the layer that reads it: MONAI's, and two plain ones.

No BatchNorm, because it mixes the records of a batch and so voids per-patient clipping; GroupNorm instead. No
operation in place, no transposed convolution and no parameter that some input leaves unused, because Opacus' hooks
need each layer's own input and gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel

GROUPS = 4
KNOWN = (
    "mlp-WIDTH[-WIDTH...] (tables), cnn-CHANNELS[-CHANNELS...] (channels divisible by 4), resnet-small, resnet-large, "
    "monai-resnet10 (images), unet-small, unet-large (segmentation), or package.module:function"
)

#: Channels of the four stages of a residual network, and of a U-Net's five levels and its last layer; the large ones
#: are twice as wide. Small ones are narrow on purpose: each parameter is one more value that carries noise.
_RESNET = {
    "resnet-small": (8, 16, 16, 32),
    "resnet-large": (16, 32, 32, 64),
    "monai-resnet10": (16, 32, 64, 128),
}
_UNET = {"unet-small": (8, 8, 16, 16, 16, 8), "unet-large": (16, 16, 32, 32, 32, 16)}
#: A U-Net halves its input four times.
_SMALLEST_UNET = 16
_NORM = ("group", {"num_groups": GROUPS})
_ACTIVATION = ("relu", {"inplace": False})

Head = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Built:
    """An extractor, and what makes a head for it: of features [b, f] a linear layer, of [b, f, h, w] a 1x1 one."""

    extractor: nn.Module
    make_head: Callable[[], Head]


def built_in(architecture: str, shape: tuple[int, ...], classes: int) -> Built:
    """The named network for inputs of ``shape``; UnsupportedModel if the name is unknown or the shape does not fit."""
    kind, _, rest = architecture.partition("-")
    widths = [int(width) for width in rest.split("-")] if rest.replace("-", "").isdigit() and "--" not in rest else []
    if architecture in _UNET and len(shape) == 3 and min(shape[1:]) >= _SMALLEST_UNET:
        features = _UNET[architecture]
        return Built(_unet(shape[0], features), lambda: nn.Conv2d(features[-1], classes, 1))
    if architecture in _RESNET and len(shape) == 3:
        extractor, width = _resnet(shape[0], _RESNET[architecture]), _RESNET[architecture][-1]
    elif kind == "mlp" and len(shape) == 1 and widths and min(widths) > 0:
        extractor, width = _mlp(shape[0], widths)
    elif kind == "cnn" and len(shape) == 3 and widths and min(widths) > 0 and not any(w % GROUPS for w in widths):
        extractor, width = _cnn(shape, widths)
    else:
        raise UnsupportedModel(f"no network {architecture!r} for inputs of shape {shape}", f"Choose one of: {KNOWN}.")
    return Built(extractor, lambda: nn.Linear(width, classes))


def _mlp(features: int, widths: Sequence[int]) -> tuple[nn.Module, int]:
    # tanh bounds what one record can do to the next layer, which suits clipped gradients (Papernot et al., AAAI 2021)
    layers: list[nn.Module] = []
    for before, after in zip([features, *widths], widths, strict=False):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers), widths[-1]


def _cnn(shape: tuple[int, ...], channels: Sequence[int]) -> tuple[nn.Module, int]:
    """Convolutions of stride 2 (5x5 first, then 3x3), each followed by GroupNorm and ReLU."""
    layers: list[nn.Module] = []
    height, width = shape[1:]
    for number, (before, after) in enumerate(zip([shape[0], *channels], channels, strict=False)):
        size = 5 if number == 0 else 3
        layers += [nn.Conv2d(before, after, size, stride=2, padding=size // 2), nn.GroupNorm(GROUPS, after), nn.ReLU()]
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return nn.Sequential(*layers, nn.Flatten()), channels[-1] * height * width


def _resnet(channels: int, planes: tuple[int, ...]) -> nn.Module:
    """MONAI's ResNet-10 (basic blocks, one a stage), made so that it can be trained record by record."""
    network, block = _residual()
    made: nn.Module = network(
        block=block,
        layers=[1, 1, 1, 1],
        block_inplanes=list(planes),
        spatial_dims=2,
        n_input_channels=channels,
        conv1_t_size=3,
        conv1_t_stride=1,
        feed_forward=False,
        norm=_NORM,
        act=_ACTIVATION,
    )
    return made


@cache
def _residual() -> tuple[type[nn.Module], type[nn.Module]]:
    """MONAI's residual network and its block, without three traps of its own (1.6): ``norm`` reaches the first layer
    only and the blocks get BatchNorm; their activations work in place; and their residual sum does.

    Made once and not for each network: privacy/choosing.py knows by its modules' types what it has tried.
    """
    from monai.networks.nets.resnet import ResNet, ResNetBlock  # seconds of imports, for whoever asks for it

    class Block(ResNetBlock):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.act = nn.ReLU()

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.bn2(self.conv2(self.act(self.bn1(self.conv1(inputs)))))
            residual = inputs if self.downsample is None else self.downsample(inputs)
            answer: Tensor = self.act(hidden + residual)
            return answer

    class Network(ResNet):
        def _make_layer(self, *args: Any, **settings: Any) -> nn.Sequential:
            layer: nn.Sequential = super()._make_layer(*args, **settings | {"norm": _NORM})
            return layer

    return Network, Block


def _unet(channels: int, features: tuple[int, ...]) -> nn.Module:
    """MONAI's U-Net with GroupNorm, up to its last layer; it interpolates where the usual one convolves transposed."""
    from monai.networks.nets.basic_unet import BasicUNet

    network: nn.Module = BasicUNet(
        spatial_dims=2,
        in_channels=channels,
        out_channels=1,
        features=features,
        act=_ACTIVATION,
        norm=_NORM,
        upsample="nontrainable",
    )
    network.final_conv = nn.Identity()  # both heads take its place
    return network
