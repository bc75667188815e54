"""The base model and its life: prepare, load, wrap in an engine, measure, save and read back."""
