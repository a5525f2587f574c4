"""Teaching views: what the parts of a convolutional network and the classical operations do, on a real picture, with the numbers beside it."""
