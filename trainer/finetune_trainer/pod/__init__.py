"""The folders of a pod, and the files through which its agent and its ranks communicate."""
