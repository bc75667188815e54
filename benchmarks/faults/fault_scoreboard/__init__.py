"""The parts of the fault scoreboard; measure.py is its command."""
