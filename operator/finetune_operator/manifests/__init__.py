"""The manifests of the objects that an attempt consists of.

All code here is pure; creating the objects belongs in `runtime`.
"""
