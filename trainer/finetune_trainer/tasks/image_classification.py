"""One label for a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from finetune_trainer.tasks.task import Batch, Classification, Settings


class ImageClassification(Classification):
    """Picture to label. Pictures stay encoded until a batch is made: as pixels they are some fifty times larger."""

    model_types = frozenset(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    auto_class = AutoModelForImageClassification

    def load_processor(self, folder: Path, remote_code: bool) -> BaseImageProcessor:
        """The image processor, in its Pillow variant: the same pixels on every machine, and no torchvision."""
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=remote_code
        )
        return processor

    def drawn_batch(self, model: Any, processor: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Pixels (4, channels, height, width) of noise."""
        mode, channels = ("L", 1) if getattr(model.config, "num_channels", 3) == 1 else ("RGB", 3)
        noise = torch.randint(0, 256, (4, 64 * 64 * channels), dtype=torch.uint8, generator=generator)
        pictures = [Image.frombytes(mode, (64, 64), bytes(row.tolist())) for row in noise]
        return dict(processor(images=pictures, return_tensors="pt").to(model.dtype))

    def adapt(self, model: PreTrainedModel, processor: BaseImageProcessor) -> tuple[int, ...]:
        """Nothing changes: pictures need no vocabulary."""
        return ()

    def encode(self, rows: datasets.Dataset, settings: Settings) -> datasets.Dataset:
        """Columns: id, image (with its bytes, since other pods do not see a path of this one), label, count,
        length."""

        def encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            pictures = [
                {"bytes": picture["bytes"] or Path(picture["path"]).read_bytes(), "path": None}
                for picture in columns["image"]
            ]
            return {"image": pictures, "count": [1] * len(pictures), "length": [0] * len(pictures)}

        stored = rows.cast_column("image", datasets.Image(decode=False))
        return stored.map(encoded, batched=True, batch_size=100, load_from_cache_file=False).cast_column(
            "image", datasets.Image()
        )

    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Resized and normalised as the image processor says. All that it returns reaches the model."""
        mode = "L" if getattr(settings.model, "num_channels", 3) == 1 else "RGB"
        pictures = [opaque(picture).convert(mode) for picture in rows["image"]]
        features = settings.processor(images=pictures, return_tensors="pt")
        return Batch(dict(features), self.labels(rows["label"], weights))


def opaque(picture: Image.Image) -> Image.Image:
    """The picture as it looks on white paper. Otherwise the colours below transparent pixels, which nobody sees, would
    be learned."""
    if not picture.has_transparency_data:
        return picture
    seen = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
