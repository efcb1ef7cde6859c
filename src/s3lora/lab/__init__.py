"""The laboratory: fine-tune, prune and measure real models. It needs the extra `lab`."""
