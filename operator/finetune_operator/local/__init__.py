"""The client protocol in memory, with pods as processes of this machine."""
