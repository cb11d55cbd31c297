"""Sources of clips: folders, lists, TFDS data sets."""
