"""The manifests of an attempt's children. The functions are pure and do no I/O."""
