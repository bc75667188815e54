"""The steps of the day, one file each: `STEP` describes what it measures, and `measure` does it.

A step runs in its own process. The files import torch inside of functions, so that `day.py --list` is fast.
"""
