"""The convolutional trunk of TALNet and its successors: log-mel in, one embedding per step of time out.

Sources: Wang, Li & Metze 2019 (TALNet); thesis chapter 6.3, figure 6.1; AudioSetDoneRight's `ConvBlock` for names.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from robust.errors import VictimError

TIME_POOLS = 2
"""Only the first two pools halve time as well as frequency, so a step of the output is four frames."""


class ConvBlock(nn.Module):
    """A 3 x 3 convolution with bias, batch normalisation, ReLU and perhaps a max-pool."""

    def __init__(self, channels_in: int, channels: int, pool: tuple[int, int] | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.pool = pool
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, T', F') from (B, C', T, F)."""
        maps = functional.relu(self.bn(self.conv(maps)))
        return maps if self.pool is None else functional.max_pool2d(maps, self.pool)


def conv_blocks(embedding: int, layers: int, pools: int, *, channels_in: int = 1, bins: int = 64) -> nn.ModuleList:
    """The blocks of a trunk: `pools` of its `layers` halve the frequency axis, and channels x bins stays `embedding`.

    Raises:
        VictimError: If layers cannot be shared out evenly among pools, or bins or embedding not halved that often.
    """
    if layers % pools or bins % 2**pools or embedding % (bins // 2):
        raise VictimError(
            f"A trunk of {layers} layers and {pools} pools on {bins} bins with embedding {embedding} cannot be built: "
            "layers must be a multiple of pools, bins of 2^pools, and embedding of half the bins."
        )
    interval, blocks = layers // pools, nn.ModuleList()
    for layer in range(layers):
        pooled = (layer + 1) % interval == 0
        pool = ((2, 2) if layer < interval * TIME_POOLS else (1, 2)) if pooled else None
        channels = 2 * embedding // bins
        bins = bins // 2 if pooled else bins
        blocks.append(ConvBlock(channels_in, channels, pool))
        channels_in = channels
    return blocks


class ConvTrunk(nn.Module):
    """Feature maps to a sequence of embeddings; arguments as of `conv_blocks`."""

    def __init__(self, embedding: int, layers: int, pools: int, *, channels_in: int = 1, bins: int = 64) -> None:
        super().__init__()
        self.least_frames = 2 ** min(TIME_POOLS, pools)
        self.conv = conv_blocks(embedding, layers, pools, channels_in=channels_in, bins=bins)

    def forward(self, maps: Tensor) -> Tensor:
        """Steps (B, T // 4, D) from maps (B, C, T, F).

        Raises:
            VictimError: If the pools leave nothing of the clip.
        """
        if maps.shape[2] < self.least_frames:
            raise VictimError(f"Clips of {maps.shape[2]} frames are too short; {self.least_frames} are needed.")
        for block in self.conv:
            maps = block(maps)
        return maps.transpose(1, 2).flatten(2)
