"""The trainer's image in these tests."""

import os

DEFAULT_IMAGE = "localhost/trainer-test:dev"
"""An image with only Python, which finds its packages in /workspace/.packages."""
TEST_IMAGE = os.environ.get("FINETUNE_TEST_IMAGE", DEFAULT_IMAGE)
