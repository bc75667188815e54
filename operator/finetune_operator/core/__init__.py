"""The operator's decisions: functions that derive the next action from the observed state.

All of them are pure: no await, no clock and no I/O.
"""
