"""Arrays in, arrays out: resizing, boxes and masks."""
