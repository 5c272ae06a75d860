"""Early stopping: score a network on dev, keep the best weights, save the training, stop at the end or on request."""
