"""The masked autoencoder that pre-trains `audio-mae`: what is hidden of a spectrogram is told from the rest of it.

Sources: Huang et al., "Masked Autoencoders that Listen", NeurIPS 2022, section 3; thesis 7.3. The decoder's blocks are
timm's Swin V2 in the form that upstream took (cosine attention in shifted windows, positions through a small network).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from robust.errors import CheckpointError, VictimError, unknown
from robust.victims.audio_mae_encoder import (
    AudioMaeSettings,
    build_vit,
    encoded,
    grid_positions,
    patches_of,
    read_published,
    settings_of,
)
from robust.victims.patch_masking import hidden, take
from robust.victims.upstream import check_entries

FLATNESS = 1e-6
"""Added to the variance of a patch before its root divides the patch; upstream's."""


@dataclass(frozen=True)
class DecoderSettings:
    """Configuration of the decoder; the defaults are upstream's for every size of encoder (thesis 7.4.2).

    Attributes:
        decoder_width: A multiple of `decoder_heads` and of 4.
        decoder_layers: Blocks; every second one has shifted windows.
        decoder_heads: Attention heads.
        decoder_mlp_ratio: Width of the feed-forward layers over `decoder_width`.
        window: Patches along time and along frequency in which attention stays; they divide the grid of patches.
        shift_bands: Whether windows move by half along frequency, too; the published code moves them along time alone.
        normalised_patches: Whether each patch is asked for less its mean and over its deviation.
    """

    decoder_width: int = 512
    decoder_layers: int = 16
    decoder_heads: int = 16
    decoder_mlp_ratio: float = 4.0
    window: tuple[int, int] = (4, 4)
    shift_bands: bool = False
    normalised_patches: bool = True

    def check(self, grid: tuple[int, int]) -> None:
        """Raises `VictimError` for sizes that do not fit together, or not the grid of patches."""
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise VictimError(
                f"decoder_width={self.decoder_width} must be a multiple of decoder_heads={self.decoder_heads} and of 4."
            )
        if len(self.window) != 2 or any(
            side < 1 or patches % side for patches, side in zip(grid, self.window, strict=True)
        ):
            raise VictimError(
                f"window={list(self.window)} must divide the grid of {grid[0]} x {grid[1]} patches (time, frequency)."
            )


SMALL_DECODER: dict[str, Any] = {"decoder_width": 64, "decoder_layers": 4, "decoder_heads": 4, "window": (2, 4)}


def split_settings(config: Mapping[str, Any]) -> tuple[AudioMaeSettings, DecoderSettings]:
    """Both configurations from one mapping of JSON values.

    Raises:
        VictimError: For a name that neither of them has.
    """
    encoder, decoder = ({field.name for field in fields(kind)} for kind in (AudioMaeSettings, DecoderSettings))
    for name in config:
        if name not in encoder | decoder:
            raise VictimError(unknown("setting of the masked autoencoder", name, encoder | decoder))
    own = {name: value for name, value in config.items() if name in decoder}
    if "window" in own:
        own["window"] = tuple(own["window"])
    return AudioMaeSettings(**{name: value for name, value in config.items() if name in encoder}), DecoderSettings(
        **own
    )


class LocalDecoder(nn.Module):
    """Encoded patches, and a learnt token at every place that was hidden, to the contents of all patches.

    Args:
        settings: Sizes.
        encoder: Of what width the encoded patches are, and how positions are numbered.
    """

    def __init__(self, settings: DecoderSettings, encoder: AudioMaeSettings) -> None:
        super().__init__()
        from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock

        settings.check(encoder.grid)
        width, (times, bands) = settings.decoder_width, encoder.grid
        self.grid = encoder.grid
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        swapped = (bands, times) if encoder.swapped_positions else (times, bands)
        self.pos_embed = nn.Parameter(grid_positions(*swapped, width)[None], requires_grad=False)
        norm = partial(nn.LayerNorm, eps=1e-6)
        half = (settings.window[0] // 2, settings.window[1] // 2)
        blocks = [
            SwinTransformerV2CrBlock(
                dim=width,
                num_heads=settings.decoder_heads,
                feat_size=encoder.grid,
                window_size=settings.window,
                shift_size=half if index % 2 else (0, 0),
                mlp_ratio=settings.decoder_mlp_ratio,
                init_values=None,
                norm_layer=cast(type[nn.Module], norm),
            )
            for index in range(settings.decoder_layers)
        ]
        if not settings.shift_bands:
            for block in blocks:
                block.shift_size = (block.shift_size[0], 0)
                block.reset_parameters()  # windows that moved otherwise hide other pairs of patches from each other
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm(width)
        self.pred = nn.Linear(width, encoder.patch_size**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, visible: Tensor) -> Tensor:
        """Contents (B, L, patch * patch) of all patches, time first.

        Args:
            seen: (B, n, width) encoded patches.
            visible: (B, n) their places.
        """
        embedded = self.embed(seen)
        places = visible[:, :, None].expand(-1, -1, embedded.shape[2])
        count = self.grid[0] * self.grid[1]
        steps = self.mask_token.expand(len(seen), count, -1).to(embedded.dtype).scatter(1, places, embedded)
        steps = (steps + self.pos_embed[:, 1:]).reshape(len(seen), *self.grid, -1)  # (B, times, bands, width)
        for block in self.blocks:
            steps = block(steps)
        contents: Tensor = self.pred(self.norm(steps.flatten(1, 2)))
        return contents


class MaskedAutoencoder(nn.Module):
    """The encoder of `audio-mae`, under the same names, and the decoder that pre-training needs.

    Attributes:
        settings, decoder_settings: Both configurations.
    """

    def __init__(self, settings: AudioMaeSettings, decoder: DecoderSettings) -> None:
        super().__init__()
        self.settings, self.decoder_settings = settings, decoder
        self.fbank = settings.fbank()
        self.vit = build_vit(settings, classes=0)
        self.decoder = LocalDecoder(decoder, settings)

    @property
    def config(self) -> dict[str, Any]:
        """Both configurations as JSON values, for a card."""
        return {**asdict(self.settings), **asdict(self.decoder_settings), "window": list(self.decoder_settings.window)}

    def contents(self, features: Tensor) -> Tensor:
        """Contents (B, L, patch * patch) of the patches of features (B, frames, mels), time first."""
        size, (times, bands) = self.settings.patch_size, self.settings.grid
        cut = features.reshape(len(features), times, size, bands, size)
        return cut.transpose(2, 3).flatten(3).flatten(1, 2)

    def joined(self, contents: Tensor) -> Tensor:
        """Features (B, frames, mels) from the contents of their patches; what `contents` undoes."""
        size, (times, bands) = self.settings.patch_size, self.settings.grid
        cut = contents.reshape(len(contents), times, bands, size, size)
        return cut.transpose(2, 3).flatten(3).flatten(1, 2)

    def targets(self, features: Tensor) -> Tensor:
        """What the decoder is asked for: contents, each patch normalised if the settings say so."""
        contents = self.contents(features)
        if not self.decoder_settings.normalised_patches:
            return contents
        mean, deviation = _statistics(contents)
        return (contents - mean) / deviation

    def answer(self, features: Tensor, visible: Tensor) -> Tensor:
        """What the decoder makes of all patches (B, L, patch * patch), having seen some of them.

        Args:
            features: (B, max_frames, n_mels) normalised filterbank.
            visible: (B, n) places of the patches that the encoder sees.
        """
        visible = visible.to(features.device)
        seen = take(patches_of(self.vit, features), visible)
        steps = self.vit.norm(encoded(self.vit, seen))
        contents: Tensor = self.decoder(steps[:, 1:], visible)
        return contents

    def errors(self, features: Tensor, visible: Tensor) -> Tensor:
        """(B,) mean squared error over the hidden patches alone, of the same number in every clip."""
        with torch.autocast(features.device.type, enabled=False):
            asked = self.targets(features.float())
        away = hidden(visible.to(features.device), asked.shape[1])
        squares = (self.answer(features, visible).float() - asked).square().mean(dim=2)  # (B, L)
        return (squares * away).sum(dim=1) / away.sum(dim=1)

    @torch.no_grad()
    def reconstruct(self, features: Tensor, visible: Tensor) -> Tensor:
        """Features (B, max_frames, n_mels) with the hidden patches as the decoder tells them.

        Where patches are normalised the decoder tells their shape; level and spread are those of the true patch.
        """
        contents, told = self.contents(features), self.answer(features, visible)
        if self.decoder_settings.normalised_patches:
            mean, deviation = _statistics(contents)
            told = told * deviation + mean
        away = hidden(visible.to(features.device), contents.shape[1])
        return self.joined(torch.where(away[:, :, None], told, contents))


def load_published_autoencoder(source: str) -> MaskedAutoencoder:
    """Loads a pre-trained checkpoint of upstream's with its decoder; every entry must fit.

    Raises:
        CheckpointError: If it is no such file.
    """
    state = own_names(read_published(source))
    encoder = {name.removeprefix("vit."): value for name, value in state.items() if name.startswith("vit.")}
    settings = settings_of(encoder, source)
    lacking = [name for name in ("decoder.embed.weight", "decoder.blocks.0.attn.logit_scale") if name not in state]
    if lacking:
        raise CheckpointError(
            f"{source} is no pre-trained Audio-MAE with a decoder of local attention: it lacks {', '.join(lacking)} "
            "(of upstream's names with `decoder.` before them)."
        )
    decoder = DecoderSettings(
        decoder_width=state["decoder.embed.weight"].shape[0],
        decoder_layers=len({name.split(".")[2] for name in state if name.startswith("decoder.blocks.")}),
        decoder_heads=state["decoder.blocks.0.attn.logit_scale"].shape[0],
    )
    model = MaskedAutoencoder(settings, decoder)
    check_entries(source, "the masked autoencoder of audio-mae", model.state_dict(), state)
    model.load_state_dict(state)
    return model.eval()


def own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published pre-trained state under the names of `MaskedAutoencoder`.

    Upstream divides cosines by `tau`, at least 0.01; timm multiplies them by the exponential of `logit_scale`.
    """
    found = {}
    for name, value in state.items():
        part = name.removeprefix("decoder_")
        new = f"decoder.{part}" if part != name or name == "mask_token" else f"vit.{name}"
        if new.endswith(".tau"):
            new, value = new.removesuffix("tau") + "logit_scale", -value.clamp(min=0.01).log()
        found[new] = value
    return found


def _statistics(contents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, L, 1) of every patch."""
    return contents.mean(dim=2, keepdim=True), (contents.var(dim=2, keepdim=True) + FLATNESS).sqrt()


__all__ = [
    "SMALL_DECODER",
    "DecoderSettings",
    "LocalDecoder",
    "MaskedAutoencoder",
    "load_published_autoencoder",
    "own_names",
    "split_settings",
]
