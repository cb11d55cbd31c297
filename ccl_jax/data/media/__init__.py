"""Files of pictures and sound, decoded."""
