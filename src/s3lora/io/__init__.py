"""Bytes to adapters and back; the only rooms that touch files."""

from s3lora.io.sources import open_adapter

__all__ = ["open_adapter"]
