"""The folders of a pod, and the files by which its agent and its ranks speak to each other."""
