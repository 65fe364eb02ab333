"""What a training leaves: samples, pairs, plots, card, provenance."""
