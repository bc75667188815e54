"""The trainer's image in these tests."""

import os

DEFAULT_IMAGE = "localhost/trainer-test:dev"
"""Has Python alone, and finds its packages in /workspace/.packages."""
TEST_IMAGE = os.environ.get("FINETUNE_TEST_IMAGE", DEFAULT_IMAGE)
