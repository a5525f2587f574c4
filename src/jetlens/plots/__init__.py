"""Pictures of training and of networks, drawn by matplotlib without a display."""
