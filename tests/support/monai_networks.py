"""MONAI's networks with small settings, and what becomes of each: the table of docs/networks.md.

python tests/support/monai_networks.py        prints the table; networks that need einops are tried where it is there
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.learning.models import Surrogate, build
from secure_fedhelp.privacy.gradients import BookKeeping, OpacusHooks, RecordByRecord
from secure_fedhelp.privacy.training import check_model

WAYS = {BookKeeping: "book-keeping", OpacusHooks: "Opacus' hooks", RecordByRecord: "record by record"}
IMAGE, LARGER, LARGEST = (1, 16, 16), (1, 32, 32), (1, 64, 64)
GROUP = '("group", {"num_groups": 2})'
PLAIN = '("relu", {"inplace": False})'
_SETTINGS: dict[str, Any] = {"group": ("group", {"num_groups": 2}), "plain": ("relu", {"inplace": False})}


@dataclass(frozen=True)
class Network:
    """``settings`` as the table prints them; sizes, which change nothing, are in ``make``."""

    name: str
    task: str
    settings: str
    shape: tuple[int, ...]
    make: Callable[[Any, int], nn.Module]
    needs: str | None = None


class First(nn.Module):
    """The first of a network's answers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.as_tensor(self.network(inputs)[0])


def _networks() -> list[Network]:
    from monai.networks import nets

    group, plain = _SETTINGS["group"], _SETTINGS["plain"]
    small, channels = (4, 4, 4, 4, 4, 4), (4, 8, 8)
    dense = {"init_features": 4, "growth_rate": 4, "block_config": (1, 1)}
    stages = {"conv1_t_size": 3, "spatial_dims": 2, "n_input_channels": 1}
    vit = {"hidden_size": 12, "mlp_dim": 16, "num_heads": 2, "spatial_dims": 2}

    def resnet(n: int, **more: Any) -> nn.Module:
        return nets.ResNet("basic", [1, 1, 1, 1], [4, 4, 8, 8], num_classes=n, **stages, **more)

    def efficient(n: int, **more: Any) -> nn.Module:
        name = "efficientnet-b0"
        return nets.EfficientNetBN(name, pretrained=False, spatial_dims=2, in_channels=1, num_classes=n, **more)

    def dynamic(n: int, **more: Any) -> nn.Module:
        return nets.DynUNet(2, 1, n, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8], **more)

    def first_of(network: nn.Module) -> nn.Module:
        for block in network.blocks:  # made for attention to another sequence, and not used
            block.norm_cross_attn.requires_grad_(False)
        return First(network)

    def swin(n: int) -> nn.Module:
        sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "feature_size": 12}
        return nets.SwinUNETR(1, n, spatial_dims=2, window_size=4, **sizes)

    def unetr(n: int) -> nn.Module:
        made = nets.UNETR(1, n, LARGER[1:], feature_size=4, **vit)
        for block in made.vit.blocks:
            block.norm_cross_attn.requires_grad_(False)
        return made

    def transformer(n: int) -> nn.Module:
        head = {"classification": True, "num_classes": n, "post_activation": None}
        return nets.ViT(1, IMAGE[1:], (8, 8), num_layers=1, **vit, **head)

    one, pixels = "classes", "pixels"
    return [
        Network("FullyConnectedNet", one, "", (5,), lambda s, n: nets.FullyConnectedNet(s[0], n, (6,))),
        Network("DenseNet", one, "", IMAGE, lambda s, n: nets.DenseNet(2, 1, n, **dense)),
        Network("DenseNet", one, f"norm={GROUP}", IMAGE, lambda s, n: nets.DenseNet(2, 1, n, norm=group, **dense)),
        Network("ResNet", one, "", IMAGE, lambda s, n: resnet(n)),
        Network("ResNet", one, f"norm={GROUP}", IMAGE, lambda s, n: resnet(n, norm=group)),
        Network("EfficientNetBN", one, "", LARGER, lambda s, n: efficient(n)),
        Network("EfficientNetBN", one, f"norm={GROUP}", LARGER, lambda s, n: efficient(n, norm=group)),
        Network("ViT", one, "", IMAGE, lambda s, n: transformer(n), "einops"),
        Network("ViT", one, "its first answer", IMAGE, lambda s, n: first_of(transformer(n)), "einops"),
        Network("BasicUNet", pixels, "", LARGER, lambda s, n: nets.BasicUNet(2, 1, n, small)),
        Network("BasicUNet", pixels, f"act={PLAIN}", LARGER, lambda s, n: nets.BasicUNet(2, 1, n, small, act=plain)),
        Network(
            "BasicUNet",
            pixels,
            f'act={PLAIN}, norm={GROUP}, upsample="nontrainable"',
            LARGER,
            lambda s, n: nets.BasicUNet(2, 1, n, small, act=plain, norm=group, upsample="nontrainable"),
        ),
        Network("UNet", pixels, "", IMAGE, lambda s, n: nets.UNet(2, 1, n, channels, (2, 2))),
        Network("AttentionUnet", pixels, "", IMAGE, lambda s, n: nets.AttentionUnet(2, 1, n, channels, (2, 2))),
        Network(
            "SegResNet",
            pixels,
            'norm=("group", {"num_groups": 4})',
            IMAGE,
            lambda s, n: nets.SegResNet(
                2, 8, 1, n, norm=("group", {"num_groups": 4}), blocks_down=(1, 1), blocks_up=(1,)
            ),
        ),
        Network("DynUNet", pixels, "", IMAGE, lambda s, n: dynamic(n)),
        Network("DynUNet", pixels, f"act_name={PLAIN}", IMAGE, lambda s, n: dynamic(n, act_name=plain)),
        Network("HighResNet", pixels, "", IMAGE, lambda s, n: nets.HighResNet(2, 1, n)),
        Network("UNETR", pixels, "norm_cross_attn frozen", LARGER, lambda s, n: unetr(n), "einops"),
        Network("SwinUNETR", pixels, "", LARGEST, lambda s, n: swin(n), "einops"),
    ]


def __getattr__(name: str) -> Callable[[Any, int], nn.Module]:
    """``monai_networks:network_3``, as a plan would name a network of one's own."""
    if not name.startswith("network_"):
        raise AttributeError(name)
    return _networks()[int(name.removeprefix("network_"))].make


def networks() -> list[Network]:
    return _networks()


def can_be_made(network: Network) -> bool:
    return network.needs is None or find_spec(network.needs) is not None


def row(number: int) -> str:
    """The table's line of a network, after trying it as a plan's."""
    network = _networks()[number]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = Surrogate(build(f"{__name__}:network_{number}", network.shape, 3, seed=0))
            found = WAYS[check_model(model, network.shape)]
        except UnsupportedModel as error:
            said = re.sub(r"^\S+:network_\d+: ", "", error.message)
            found = f"refused: {said}"
    settings = f"`{network.settings}`" if "=" in network.settings else network.settings or "as it is"
    return f"| `{network.name}` | {network.task} | {settings} | {found} |"


if __name__ == "__main__":
    import monai_networks  # under the name that build() will import

    for place, each in enumerate(networks()):
        print(monai_networks.row(place) if can_be_made(each) else f"| `{each.name}` | needs {each.needs} |")
