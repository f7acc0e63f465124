"""Victims by name, and `Victim.wrap` for anybody's module."""

from robust.victims import ast as ast  # importing a module registers its victims
from robust.victims import audio_mae as audio_mae
from robust.victims import audio_mlp_autoencoder as audio_mlp_autoencoder
from robust.victims import cnn_transformer as cnn_transformer
from robust.victims import conformer as conformer
from robust.victims import efficientnet as efficientnet
from robust.victims import frames as frames
from robust.victims import fusion as fusion
from robust.victims import hear_module as hear_module
from robust.victims import hugging_face as hugging_face
from robust.victims import joined as joined
from robust.victims import kwmlp as kwmlp
from robust.victims import mil as mil
from robust.victims import panns as panns
from robust.victims import passt as passt
from robust.victims import psla as psla
from robust.victims import raw_waveform as raw_waveform
from robust.victims import resnet as resnet
from robust.victims import spectrogram_transformer as spectrogram_transformer
from robust.victims import talnet as talnet
from robust.victims import timm_backbones as timm_backbones
from robust.victims import wakeword as wakeword
from robust.victims.base import Victim
from robust.victims.loading import load_victim
from robust.victims.registry import build_victim, list_open, list_victims, register, register_open, victim_entry

__all__ = [
    "Victim",
    "build_victim",
    "list_open",
    "list_victims",
    "load_victim",
    "register",
    "register_open",
    "victim_entry",
]
