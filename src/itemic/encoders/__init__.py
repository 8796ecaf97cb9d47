"""What turns content into vectors, and text into pieces; pretrained weights."""
