"""Where clips come from: folders, lists, TFDS sets."""
