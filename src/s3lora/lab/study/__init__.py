"""Adapters × methods × K: what taking modules out does to safety and to utility."""
