"""The task of predicting one label for an image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, BaseImageProcessor, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from finetune_trainer.errors import InvalidError
from finetune_trainer.tasks.task import Batch, Classification, Settings


class ImageClassification(Classification):
    """Image classification.

    Images remain encoded until a batch is made, because their pixels need about 50 times as much space.
    """

    model_types = frozenset(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    auto_class = AutoModelForImageClassification

    def load_processor(self, folder: Path, remote_code: bool) -> BaseImageProcessor:
        """Load the Pillow variant of the image processor.

        It computes the same pixels on every machine and does not need torchvision.
        """
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=remote_code
        )
        return processor

    def adapt(self, model: PreTrainedModel, processor: BaseImageProcessor, columns: Collection[str]) -> tuple[int, ...]:
        """Return no tokens and change nothing, because images have no vocabulary."""
        return ()

    def encode(self, rows: datasets.Dataset, settings: Settings, notes: list[str] | None = None) -> datasets.Dataset:
        """Encode the rows into the columns id, image, label, count, length and cut.

        The column image holds the bytes, because other pods cannot read the paths of this one.
        """

        def encoded(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
            pictures = [
                {"bytes": picture["bytes"] or Path(picture["path"]).read_bytes(), "path": None}
                for picture in columns["image"]
            ]
            rows = len(pictures)
            return {"image": pictures, "count": [1] * rows, "length": [0] * rows, "cut": [False] * rows}

        stored = rows.cast_column("image", datasets.Image(decode=False))
        return stored.map(encoded, batched=True, batch_size=100, load_from_cache_file=False).cast_column(
            "image", datasets.Image()
        )

    def collate(self, rows: Mapping[str, Sequence[Any]], weights: Sequence[int], settings: Settings) -> Batch:
        """Resize and normalise the images with the image processor, whose whole output is passed to the model.

        Raises InvalidError if the processor makes images of different sizes.
        """
        mode = "L" if getattr(settings.model, "num_channels", 3) == 1 else "RGB"
        pictures = [opaque(picture).convert(mode) for picture in rows["image"]]
        try:
            features = settings.processor(images=pictures, return_tensors="pt")
        except ValueError:
            if len(sizes := _sizes(settings.processor, pictures)) > 1:
                raise InvalidError(
                    f"model.uri: the image processor makes pictures of different sizes ({' and '.join(sizes[:2])} "
                    "pixels), and a model reads one size; set do_resize and do_center_crop in its "
                    "preprocessor_config.json"
                ) from None
            raise
        return Batch(dict(features), self.labels(rows["label"], weights))


def _sizes(processor: BaseImageProcessor, pictures: list[Image.Image]) -> list[str]:
    """Return the heights and widths of the images if the processor makes each of them alone."""
    made = (processor(images=[picture], return_tensors="pt")["pixel_values"].shape[-2:] for picture in pictures)
    return sorted({f"{height}x{width}" for height, width in made})


def opaque(picture: Image.Image) -> Image.Image:
    """Return the image as it appears on a white background.

    Otherwise the model would learn the invisible colours of transparent pixels.
    """
    if not picture.has_transparency_data:
        return picture
    seen = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
