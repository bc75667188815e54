"""One file for each step of the day. Each has a `STEP`, which says what it measures, and `measure`, which does it.

A step runs in a process of its own. The files import torch inside of functions, so that `day.py --list` is quick.
"""
