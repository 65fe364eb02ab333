"""What a training leaves: summary, samples, plots, model card."""
